"""evaluate.py ensemble, spectrum and restoration: files in, tables and a number out, one line for what is wrong."""

import json
import re
from functools import partial

import numpy as np
import pytest
from PIL import Image

import elucid
from elucid.api.evaluations.arrays.groups import groups
from elucid.api.evaluations.arrays.opening import open_images
from elucid.evaluation.results import load_result
from elucid.training.data.base import Dataset
from tests import scripts

MEMBERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Gray pictures: ten true ones, and four samples for each, as folders and as npz."""
    folder, random = tmp_path_factory.mktemp("arrays"), np.random.default_rng(0)
    centre = random.integers(60, 180, (10, 1, 1, 1))
    sets = {"truth": centre, "samples": centre.repeat(MEMBERS, 0)}
    for name, middle in sets.items():
        fields = np.clip(middle + 15 * random.normal(size=(len(middle), 1, 12, 12)), 0, 255).astype(np.uint8)
        np.savez(folder / f"{name}.npz", fields)
        (folder / name).mkdir()
        for index, field in enumerate(fields):
            Image.fromarray(field[0]).save(folder / name / f"{index:06d}.png")
    return folder


@pytest.fixture
def call(monkeypatch, capsys):
    def call(command, *args, code=0):
        found, out, err = scripts.call(monkeypatch, capsys, "evaluate.py", command, *args)
        assert found == code, err
        if code:
            assert err.startswith("error: ") and err.count("\n") == 1
        return err if code else out

    return call


@pytest.fixture
def compare(call, folder):
    return partial(call, "ensemble", f"--samples={folder}/samples", f"--truth={folder}/truth")


def test_ensembles_from_files_and_from_python(compare, folder, tmp_path):
    out = compare(f"--members={MEMBERS}", f"--dest={tmp_path}/e.json")
    result = load_result(tmp_path / "e.json")
    assert float(out.splitlines()[-1]) == pytest.approx(result.value, rel=1e-5)
    assert result.text() == "\n".join(out.splitlines()[:-1]) and (tmp_path / "e-1.svg").exists()
    errors, scores, coverage, ranks = result.tables
    assert [row[0] for row in errors.rows] == ["gray", "all, in deviations of the truth"] and len(scores.rows) == 2
    assert errors.rows[0][6] == pytest.approx(1, abs=0.15) and ranks.rows[0][3] > 1e-3
    assert coverage.columns == ("channel", "50 %", "low", "high", "range (60 %)", "low", "high")
    fields = np.load(folder / "samples.npz")["arr_0"]
    same = elucid.ensemble(fields, folder / "truth.npz", members=MEMBERS)
    assert same.value == result.value and same.about["channels"] == ["0"]
    first = elucid.ensemble(fields, folder / "truth.npz", members=MEMBERS, num=6)
    cut = elucid.ensemble(fields[: 6 * MEMBERS], np.load(folder / "truth.npz")["arr_0"][:6], members=MEMBERS)
    assert first.value == cut.value != result.value
    printed = json.loads(compare(f"--members={MEMBERS}", "--json").splitlines()[-1])
    assert printed["value"] == result.value and printed["about"]["conditions"] == 10


class Fields(Dataset):
    """A data set of one's own, with names of channels."""

    arrays = {"channel_names": ["t2m", "u10"], "units": ["K", "m/s"]}

    def __init__(self, values):
        self.values, self.path = values, "fields"

    def __len__(self):
        return len(self.values)

    def image(self, index):
        return self.values[index]

    def image_name(self, index):
        return f"{index:06d}.npy"


def test_channels_by_name_of_data_sets():
    random = np.random.default_rng(1)
    truth, samples = (1000 + random.normal(size=(num, 2, 1, 16)).astype(np.float32) for num in (30, 90))
    truth[:, 1] += 7
    both = elucid.ensemble(Fields(samples), Fields(truth), members=3)
    one = elucid.ensemble(Fields(samples), Fields(truth), members=3, channels="u10")
    assert one.about["channels"] == ["u10 [m/s]"] and one.tables[0].rows[0][:3] == both.tables[0].rows[1][:3]
    assert one.tables[0].rows[0][1] == pytest.approx(-7, abs=0.2)  # the bias, in its own unit
    with pytest.raises(elucid.UserError, match="did you mean 'u10'"):
        elucid.ensemble(Fields(samples), Fields(truth), members=3, channels=["u1"])
    truth[4, 1, 0, 5] = np.nan
    with pytest.raises(elucid.UserError, match="`truth`: fields/000004.npy has nan at channel u10, row 0, column 5"):
        elucid.ensemble(Fields(samples), Fields(truth), members=3)
    assert elucid.ensemble(Fields(samples), Fields(truth), members=3, channels="t2m").value > 0


def test_arrays_of_files_with_names_and_units(call, tmp_path, monkeypatch, capsys):
    """A folder of `.npy` samples beside a zip that dataset_tool.py made; NaN is found with its place."""
    random = np.random.default_rng(3)
    truth = (280 + random.normal(size=(12, 2, 6, 8))).astype(np.float32)
    for name, arrays in {"raw": truth, "samples": truth.repeat(3, 0) + random.normal(size=(36, 2, 6, 8))}.items():
        (tmp_path / name).mkdir()
        for index, array in enumerate(arrays.astype(np.float32)):
            np.save(tmp_path / name / f"{index:06d}.npy", array)
    convert = [f"--source={tmp_path}/raw", f"--dest={tmp_path}/truth.zip", "--channel-names=t2m,u10", "--units=K,m/s"]
    assert scripts.call(monkeypatch, capsys, "dataset_tool.py", *convert)[0] == 0
    given = [f"--samples={tmp_path}/samples", f"--truth={tmp_path}/truth.zip", "--members=3"]
    out = call("ensemble", *given, "--channels=u10,0", f"--dest={tmp_path}/e.json")
    rows = load_result(tmp_path / "e.json").tables[0].rows
    assert [row[0] for row in rows[:2]] == ["u10 [m/s]", "t2m [K]"] and "u10 [m/s]" in out
    assert rows[0][2] == pytest.approx(1 / np.sqrt(3), rel=0.1)  # the mean of three errors of deviation 1
    psnr = call("restoration", f"--images={tmp_path}/samples", *given[1:], "--data_range=10", "--ssim=0")
    assert float(psnr.splitlines()[-1]) == pytest.approx(20, abs=0.2)
    assert "--data_range" in call("restoration", f"--images={tmp_path}/samples", *given[1:], code=2)
    spoilt = np.load(tmp_path / "samples/000017.npy")
    spoilt[1, 2, 3] = np.nan
    np.save(tmp_path / "samples/000017.npy", spoilt)
    said = call("ensemble", *given, code=2)
    assert "--samples" in said and "000017.npy has nan at channel u10," in said and "row 2, column 3" in said


def test_few_images_wait_in_memory():
    """Conditions are read one after another, however many there are."""
    random = np.random.default_rng(2)
    truth, read = random.normal(size=(40, 1, 2, 2)), []

    class Counted(Fields):
        def image(self, index):
            read.append(index)
            return super().image(index)

    drawn, real = (open_images(Counted(one), "samples") for one in (truth.repeat(3, 0), truth))
    read.clear()
    for number, (group, one) in enumerate(groups(drawn, real, 3, 40, workers=2), start=1):
        assert group.shape == (3, 1, 2, 2) and np.array_equal(group[0], one) and np.array_equal(group[2], one)
        assert len(read) <= 4 * number + 3
        if number == 5:
            break


def test_mistakes_in_ensembles(compare, call, folder, tmp_path):
    assert "--members=1 has no spread" in compare("--members=1", code=2)
    assert "--num=11" in compare("--members=4", "--num=11", code=2)
    assert "40 samples, no multiple of --members=3" in compare("--members=3", code=2)
    assert "--truth" in compare("--members=8", code=2)
    assert "0" in compare("--members=0", code=2)
    assert "--channels" in compare("--members=4", "--channels=red", code=2)
    np.savez(tmp_path / "wide.npz", np.zeros((10, 1, 12, 13), np.uint8))
    samples = f"--samples={folder}/samples.npz"
    assert "1x12x13" in call("ensemble", samples, f"--truth={tmp_path}/wide.npz", "--members=4", code=2)
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    assert "samples" in call("ensemble", samples, f"--truth={tmp_path}/two.npz", "--members=4", code=2)
    (tmp_path / "no.npz").write_bytes(b"nothing")
    assert "no.npz" in call("ensemble", samples, f"--truth={tmp_path}/no.npz", "--members=4", code=2)
    assert "nowhere" in call("ensemble", samples, f"--truth={tmp_path}/nowhere", "--members=4", code=2)


def test_spectra_from_files(call, folder, tmp_path):
    given = [f"--images={folder}/samples", f"--data={folder}/truth"]
    out = call("spectrum", *given, "-o", f"{tmp_path}/s.svg", f"--dest={tmp_path}/s.json")
    result = load_result(tmp_path / "s.json")
    assert float(out.splitlines()[-1]) == pytest.approx(result.value, rel=1e-5) and result.value < 1
    assert result.text() == "\n".join(out.splitlines()[:-1]) and (tmp_path / "s.svg").read_text().count("<svg") == 3
    assert "-o=s.png" in call("spectrum", *given, "-o", "s.png", code=2)
    assert "--window" in call("spectrum", *given, "--window=round", code=2)


def test_restored_images_from_files(call, folder, tmp_path):
    pytest.importorskip("skimage")
    given = [f"--images={folder}/samples", f"--truth={folder}/truth", f"--members={MEMBERS}"]
    out = call("restoration", *given, f"--dest={tmp_path}/r.json", f"--per_image={tmp_path}/r.csv")
    result = load_result(tmp_path / "r.json")
    assert float(out.splitlines()[-1]) == pytest.approx(result.value, rel=1e-5)
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 41
    assert result.value == pytest.approx(20 * np.log10(255 / (15 * np.sqrt(2))), abs=0.5)
    assert [row[1] for row in result.tables[0].rows] == ["PSNR, dB", "SSIM"] * 2
    assert "--data_range" in call("restoration", *given, "--data_range=1,2", code=2)


def test_the_examples_of_the_page(tmp_path, monkeypatch, capsys):
    """They print what the page says: the second ensemble is overconfident, and the samples are too smooth."""
    page = (scripts.ROOT / "docs/how-to/ensembles.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec("\n".join(code), names)
    texts = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    printed = capsys.readouterr().out.split("normalised_crps")
    assert numbers(printed[1].partition("\n")[2]) == pytest.approx(
        numbers(texts[0].partition("normalised")[0]), rel=0.02
    )
    result = names["result"]
    assert numbers(texts[1].splitlines()[2]) == pytest.approx([0, *result.tables[0].rows[0][1:]], rel=0.02)
    assert (tmp_path / "spectrum.svg").exists()


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"(?<![\w.])-?\d+\.?\d*(?:e-?\d+)?(?![\w.])", text)]
