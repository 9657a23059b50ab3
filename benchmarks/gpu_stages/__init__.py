"""The stages of `gpu.py`, one file each, and what runs them.

`plan` says what there is, in which order, and how long it takes; `run`, `processes`, `results` and `site`
use the standard library alone, since they run where nothing is installed; `worker` is the process of a stage.
"""
