"""The gRPC door: servicers, what they read and write, status codes, health. Nothing behind it knows gRPC."""
