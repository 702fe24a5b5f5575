"""What Celery runs: intake, engines and upkeep, all driven by the database."""
