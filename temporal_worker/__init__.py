"""Activities for builds that run in Temporal (extra `temporal`): clients of the gRPC door."""
