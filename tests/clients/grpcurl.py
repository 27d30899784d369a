"""A stand-in for grpcurl, as far as `clients/examples/grpcurl.sh` uses it: reflection, JSON, a call.

Its flags are those of grpcurl's help; anything else is refused.
"""

import argparse
import json
import sys
from collections.abc import Iterator

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def documents(text: str) -> Iterator[str]:
    """The JSON documents that follow each other in a text."""
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        _, end = decoder.raw_decode(text)
        yield text[:end]
        text = text[end:]


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, prefix_chars="-")
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-max-time", type=float, default=10)
    parser.add_argument("-d", default="")
    parser.add_argument("address")
    parser.add_argument("symbol")
    options = parser.parse_args()
    with grpc.insecure_channel(options.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        if options.symbol == "list":
            print(*database.get_services(), sep="\n")
            return
        service, _, name = options.symbol.partition("/")
        method = DescriptorPool(database).FindServiceByName(service).methods_by_name[name]
        texts = documents(sys.stdin.read() if options.d == "@" else options.d)
        requests = [json_format.Parse(text, GetMessageClass(method.input_type)()) for text in texts]
        call = channel.stream_stream(
            f"/{options.symbol}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        for response in call(iter(requests), timeout=options.max_time):
            print(json_format.MessageToJson(response))


if __name__ == "__main__":
    main()
