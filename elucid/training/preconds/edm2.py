"""EDM2's preconditioner."""

from elucid.training.preconds.edm import EDMPrecond


class EDM2Precond(EDMPrecond):
    """EDM's preconditioner, trained with the learned weighting of noise levels (Karras et al. 2024, arXiv 2312.02696).

    Its network is `edm2`; others work, too.
    """

    uses_all_parameters = True
    default_loss = "uncertainty(edm)"
