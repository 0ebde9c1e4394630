"""The numbers of a run: windows of values, and curves that outlive restarts."""
