"""What the commands of the old tutorials share: their way of reading arguments, pairs, datasets and schedules."""
