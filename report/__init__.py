"""What a finished run made in, one page for people out: report.html, and its numbers as report.json."""
