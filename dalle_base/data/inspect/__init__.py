"""What a run will see of its data: python -m dalle_base.data.inspect CONFIG [key=value ...]."""
