"""Benches: methods on data sets over seeds, under one budget."""

from scmkit.reporting.trials.page import bench_page as bench_page
from scmkit.reporting.trials.page import markdown_of as markdown_of
from scmkit.reporting.trials.page import table_of as table_of
from scmkit.reporting.trials.plan import Cell as Cell
from scmkit.reporting.trials.plan import Plan as Plan
from scmkit.reporting.trials.running import Result as Result
from scmkit.reporting.trials.running import bench as bench
from scmkit.reporting.trials.summary import summarise as summarise
from scmkit.reporting.trials.verdicts import verdicts as verdicts
