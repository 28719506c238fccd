"""The programs of the old tutorials, in `facenet/` and `tiny/`, and what they share: arguments, pairs, datasets, schedules."""
