"""Reports: pages of charts and pictures about runs."""

from scmkit.reporting.report import report as report
