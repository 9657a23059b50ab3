"""The sections of a report, each `section(subjects, asked) -> Section`, in their order."""
