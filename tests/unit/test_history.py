"""Scores over a training: kept line by line, the best of them, and the images to a given score."""

import json

import pytest

from elucid.dnnlib.errors import UserError
from elucid.evaluation.history import History, Record, as_result, best, better, first_to_reach, reached
from elucid.evaluation.results import load_result
from elucid.metrics.measures.evaluate import Metric
from elucid.training.config.options import options_from
from elucid.training.config.settings import eval_options, parse_eval
from elucid.training.config.train_options import TrainOptions

NAN = float("nan")


def record(nimg, value, metric="kid", made_by="a", interval=(0.0, 9.0)):
    return Record(nimg, (Metric(f"{metric}1k_random", metric, "random", value, interval),), made_by, {"tick": 1})


RECORDS = [record(1000, 5.0), record(2000, 3.0), record(3000, 4.0), record(4000, 3.0)]


def test_the_best_is_the_lowest_distance_or_the_highest_share():
    assert best(RECORDS) == RECORDS[1]
    assert best(RECORDS[::-1]) == RECORDS[1]  # of equals the earliest
    shares = [record(1000, 0.2, "precision"), record(2000, 0.4, "precision"), record(3000, 0.3, "precision")]
    assert best(shares) == shares[1] and best([]) is None
    assert better("is", 2.0, 1.0) and better("fid", 1.0, 2.0) and not better("fid", NAN, 2.0)
    assert best([record(1, NAN), record(2, 9.0), record(3, NAN)]).nimg == 2


def test_the_images_to_a_score():
    assert first_to_reach(RECORDS, 4.5) == RECORDS[1] == first_to_reach(RECORDS, 3.0)
    assert first_to_reach(RECORDS, 2.9) is None and first_to_reach([record(1, NAN)], 9.0) is None
    assert first_to_reach([record(1, 0.2, "recall"), record(2, 0.5, "recall")], 0.3).nimg == 2
    assert reached(record(1_200_000, 0.01), 0.01, 352_941) == "reached kid1k_random 0.01 after 1.2 Mimg (3.4 epochs)"
    assert reached(record(2500, 0.01), 0.5, None) == "reached kid1k_random 0.5 after 2.5 kimg"


def test_records_are_kept_and_cut_where_a_run_goes_on(tmp_path):
    path = tmp_path / "new" / "online.jsonl"
    history = History(path, "a")
    for one in (*RECORDS, record(1500, 1.0, made_by="b", interval=None)):
        history.add(one)
    with open(path, "a") as file:
        file.write('{"half a li')
    again = History(path, "a")
    assert again.records == RECORDS and History(path, "b").records == [record(1500, 1.0, made_by="b", interval=None)]
    again.add(record(500, 6.0))  # not on the line that is incomplete
    assert History(path, "a").records == [*RECORDS, record(500, 6.0)]
    again.cut(2000)
    assert again.records == [*RECORDS[:2], record(500, 6.0)] == History(path, "a").records
    assert len(path.read_text().splitlines()) == 4 and History(path, "b").records


def test_a_table_and_a_curve(tmp_path):
    result = as_result("watch", RECORDS[::-1], {"num": 1}, ["note"], lambda one: f"s{one.nimg}")
    result.save(tmp_path / "r.json")
    assert load_result(tmp_path / "r.json") == result
    assert (result.value, result.name, result.interval) == (3.0, "kid1k_random", (0.0, 9.0))
    (curve,) = result.curves
    assert curve.series[0].points == ((1.0, 5.0), (2.0, 3.0), (3.0, 4.0), (4.0, 3.0))
    assert curve.series[0].intervals == ((0.0, 9.0),) * 4
    assert result.tables[0].rows[0] == ("s1000", 1.0, 5.0, 0.0, 9.0) and result.lines[-1].endswith("at 2 kimg: s2000")


@pytest.mark.parametrize(
    ("text", "found"), [("5k@25", (5000, 25)), ("500@10", (500, 10)), ("2k", (2000, 0)), ("64@0", (64, 0))]
)
def test_flag(text, found):
    assert tuple(parse_eval(text).values()) == found
    options = options_from(TrainOptions(data="x.zip", eval=text, set={"eval.steps": 9, "eval.ema": 0.5}).flags())
    assert json.loads(json.dumps(options["eval"])) == {"num": found[0], "ticks": found[1], "steps": 9, "ema": 0.5}
    assert eval_options(options).steps == 9 and eval_options(options).ema == "0.5"


@pytest.mark.parametrize("text", ["5m@2", "@5", "5k@", "5k@-1", "k", "5 k"])
def test_other_text(text):
    with pytest.raises(UserError, match="`eval`"):
        parse_eval(text)


def test_no_flag_is_no_scoring():
    assert eval_options(options_from(TrainOptions(data="x.zip").flags())) is None
