"""What stage g trains, in order of worth, and what a step of each costs over a diffusion step."""

METHODS: dict[str, float] = {
    # The paper's Table 1; the teacher comes first.
    "diffusion": 1.0,
    "scd": 1.7,
    "sct": 1.4,
    "ect": 1.4,
    "ict": 1.3,
    "cd": 2.0,
    "progressive-distillation": 1.6,
    "ct": 1.5,
    "tract": 1.6,
    "multistep-cd": 1.6,
    "consistency-fm": 1.3,
    "pid": 2.5,
    "boot": 3.0,
    "diff-instruct": 3.0,
    "dmd": 3.3,
    "sid": 3.8,
    "moment-matching": 4.3,
    "ctm": 6.2,
    "dmd2": 8.2,
    # Flow maps, and what else is cheap.
    "meanflow": 1.4,
    "imm": 1.3,
    "ayf": 1.7,
    "dscd": 2.0,
    "tcm": 1.7,
    "ms-scd": 1.7,
    "continuous-ct": 1.5,
    "fsf-dmd": 1.7,
    "drifting": 1.1,
    "soflow": 2.4,
    "improved-meanflow": 2.4,
    "facm": 2.4,
    "shortcut": 2.7,
    "psd": 2.7,
    "split-meanflow": 2.7,
    "ladd": 2.7,
    "continuous-cd": 3.2,
    "vsd": 3.0,
    "tvm": 3.8,
    "lsd": 3.9,
    "vsd-scd": 4.7,
    "esd": 4.9,
    "sida": 5.5,
    "cmt": 8.0,
    "rcm": 8.7,
    # A quarter of an hour each.
    "f-distill": 21.0,
    "emd": 24.0,
}
"""By loss, as `method_steps.py` has measured or counted them, whichever is more.

Those are missing that train on pairs of noise and samples: `dfno`, `reflow` and `reflow-distillation`.
"""
