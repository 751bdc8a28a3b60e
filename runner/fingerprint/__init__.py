"""What determines a job's predictions."""
