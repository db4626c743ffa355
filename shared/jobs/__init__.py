"""Jobs: the record, the store in Redis, and the messages of a training process."""
