"""What every workspace stores, how many bytes, and what is to be announced. The only room with SQL."""
