"""All that the doctor looks at, in the order in which it says it."""

import itertools
from pathlib import Path

from mrm.physical.cgroups import ROOT
from mrm.tools.doctor import facts, giving, rights, sight, virtual
from mrm.tools.doctor.features import Trial, features
from mrm.tools.doctor.finding import Finding
from mrm.tools.doctor.trial import try_all


def findings(root: Path = ROOT, trial: Trial = try_all) -> list[Finding]:
    """Look at everything.

    Parameters
    ----------
    root : Path, optional
        Where /proc and /sys are.
    trial : callable, optional
        What tries the features.
    """
    return list(
        itertools.chain(
            facts.machine(root),
            sight.sight(root),
            virtual.virtual(root),
            facts.huge_page_pools(root),
            facts.mounts(root),
            facts.transparent(root),
            facts.limits(root),
            facts.groups(root),
            giving.giving(root),
            giving.pressure(root),
            rights.rights(root),
            features(trial),
        )
    )
