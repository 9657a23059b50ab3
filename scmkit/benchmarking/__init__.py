"""Benches: methods on data sets over seeds, under one budget."""

from scmkit.benchmarking.page import bench_page as bench_page
from scmkit.benchmarking.page import table_of as table_of
from scmkit.benchmarking.plan import Cell as Cell
from scmkit.benchmarking.plan import Plan as Plan
from scmkit.benchmarking.running import Result as Result
from scmkit.benchmarking.running import bench as bench
from scmkit.benchmarking.summary import summarise as summarise
