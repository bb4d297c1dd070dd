"""What only trains: a run, its trainer, optimisers, schedules."""
