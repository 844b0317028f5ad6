"""Archives of any number of coded pictures, made shard by shard on one machine or many."""
