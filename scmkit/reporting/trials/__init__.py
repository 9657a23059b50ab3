"""Benches: methods on data sets over seeds, under one budget."""

from scmkit.reporting.trials.curves import USUAL as USUAL
from scmkit.reporting.trials.curves import curves_of as curves_of
from scmkit.reporting.trials.curves import curves_png as curves_png
from scmkit.reporting.trials.page import bench_page as bench_page
from scmkit.reporting.trials.page import in_markdown as in_markdown
from scmkit.reporting.trials.page import markdown_of as markdown_of
from scmkit.reporting.trials.page import table_of as table_of
from scmkit.reporting.trials.plan import Cell as Cell
from scmkit.reporting.trials.plan import Plan as Plan
from scmkit.reporting.trials.presets import PRESETS as PRESETS
from scmkit.reporting.trials.presets import Setting as Setting
from scmkit.reporting.trials.presets import setting as setting
from scmkit.reporting.trials.running import Result as Result
from scmkit.reporting.trials.running import bench as bench
from scmkit.reporting.trials.summary import summarise as summarise
from scmkit.reporting.trials.tables import notes_of as notes_of
from scmkit.reporting.trials.tables import table_form as table_form
from scmkit.reporting.trials.verdicts import verdicts as verdicts
