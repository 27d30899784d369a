"""What is asked of `grpc.health.v1`: to watch whether digits are recognised.

Two messages of a field each, written down as bytes: the package with their classes would be needed for nothing else.
"""

from protos.digits.v1 import digits_pb2

SERVICE = digits_pb2.DESCRIPTOR.services_by_name["DigitRecognizer"].full_name

NAME = "grpc.health.v1.Health"
WATCH = f"/{NAME}/Watch"
REQUEST = b"\x0a" + bytes([len(SERVICE)]) + SERVICE.encode()
SERVING = b"\x08\x01"
