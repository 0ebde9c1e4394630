"""What a run will need before it starts: memory, operations, time, batch size."""
