#!/bin/sh
# A digit server from the command line, with grpcurl, which learns the methods from the server itself (reflection):
#
#   clients/examples/grpcurl.sh [HOST:PORT]
#
# For a server that encrypts and asks for a token, in place of -plaintext:
#   -cacert server.crt -H "authorization: Bearer $DIGITS_TOKEN"
set -eu
address=${1:-127.0.0.1:8001}

# One image is 784 bytes, white ink on black; JSON carries bytes in base64. This one is a stroke from top to bottom.
bytes() { head -c "$1" /dev/zero | tr '\0' "$2"; }
stroke() {
  bytes 112 '\000'
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    bytes 13 '\000'; bytes 3 '\377'; bytes 12 '\000'
  done
  bytes 112 '\000'
}
pixels=$(stroke | base64 | tr -d '\n')

echo "# services"
grpcurl -plaintext "$address" list

echo "# is it ready?"
grpcurl -plaintext -d '{"service": "digits.v1.DigitRecognizer"}' "$address" grpc.health.v1.Health/Check

echo "# which model?"
grpcurl -plaintext -d '{}' "$address" digits.v1.DigitRecognizer/GetModel

echo "# one image, with its two best candidates"
grpcurl -plaintext -max-time 5 -d '{"pixels": "'"$pixels"'", "top_k": 2}' "$address" digits.v1.DigitRecognizer/Classify

echo "# a stream: two images, then one that is refused in its place"
grpcurl -plaintext -max-time 5 -d @ "$address" digits.v1.DigitRecognizer/ClassifyStream <<END
{"pixels": "$pixels"}
{"pixels": "$pixels", "top_k": 1}
{"pixels": "AAAA"}
END
