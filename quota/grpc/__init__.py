"""The gRPC door: `idp.build.v1.BuildService`, health and reflection."""
