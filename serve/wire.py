"""Between messages and arrays: what is checked on the way in, how answers are written on the way out."""

import numpy as np

from protos.digits.v1 import digits_pb2
from serve.batcher import Answer
from serve.engines import CLASSES, IMAGE_BYTES, IMAGE_SHAPE, Pixels
from serve.errors import InvalidRequest


def read_pixels(request: digits_pb2.ClassifyRequest, *, max_images: int) -> Pixels:
    """The request's images, uint8 [N, 1, 28, 28], a view of its bytes.

    Raises:
        InvalidRequest: No images, a part of one, or more than `max_images`.
    """
    size = len(request.pixels)
    images, rest = divmod(size, IMAGE_BYTES)
    if rest:
        raise InvalidRequest(
            f"pixels holds {size} bytes; a multiple of {IMAGE_BYTES} was expected "
            "(28 x 28 bytes per image, white ink on black); resize the images"
        )
    if not images:
        raise InvalidRequest(f"pixels is empty; {IMAGE_BYTES} bytes per image were expected; send at least one image")
    if images > max_images:
        raise InvalidRequest(
            f"pixels holds {images} images; at most {max_images} are accepted in one request; send several requests"
        )
    return np.frombuffer(request.pixels, np.uint8).reshape(images, *IMAGE_SHAPE)


def read_top_k(request: digits_pb2.ClassifyRequest) -> int:
    """How many candidates to list, 0 to 10.

    Raises:
        InvalidRequest: More than there are digits.
    """
    if request.top_k > CLASSES:
        raise InvalidRequest(f"top_k is {request.top_k}; 0 to {CLASSES} was expected")
    return request.top_k


def write_answer(answer: Answer, *, model: str, version: str, top_k: int) -> digits_pb2.ClassifyResponse:
    """The response that carries `answer`."""
    response = digits_pb2.ClassifyResponse(
        model=model,
        version=version,
        queue_us=round(answer.queue_s * 1e6),
        compute_us=round(answer.compute_s * 1e6),
        batch_size=answer.batch_size,
    )
    rows = answer.probabilities.tolist()
    for digit, row in zip(answer.probabilities.argmax(axis=1).tolist(), rows, strict=True):
        # Filled in place: a third cheaper than making each message and copying it in.
        prediction = response.predictions.add()
        prediction.digit = digit
        prediction.probabilities.extend(row)
    if top_k:
        # Stable, so that equal probabilities stay in digit order.
        order = np.argsort(-answer.probabilities, axis=1, kind="stable")[:, :top_k].tolist()
        for prediction, row, best in zip(response.predictions, rows, order, strict=True):
            prediction.top.extend(digits_pb2.Candidate(digit=digit, probability=row[digit]) for digit in best)
    return response
