"""Between messages and arrays: what is checked on the way in, how answers are written on the way out."""

import functools
from collections.abc import Sequence

import numpy as np

from protos.digits.v1 import digits_pb2, doubts
from serve.batcher import Answer
from serve.engines import CLASSES, IMAGE_BYTES, IMAGE_SHAPE, Pixels
from serve.errors import InvalidRequest
from serve.model import Description
from serve.pictures import Found
from serve.rpc.encoding import FIXED32, LENGTH, VARINT, embedded, tag
from serve.rpc.status import Refusal


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


def read_pictures(request: digits_pb2.ClassifyRequest, *, max_pictures: int, max_bytes: int) -> list[bytes]:
    """The request's pictures, at least one.

    Raises:
        InvalidRequest: There are pixels as well, or more pictures than `max_pictures`, or one of more than `max_bytes`.
    """
    pictures = list(request.encoded_images)
    if request.pixels:
        raise InvalidRequest("both pixels and encoded_images are given; one of the two was expected")
    if len(pictures) > max_pictures:
        raise InvalidRequest(
            f"encoded_images holds {len(pictures)} pictures; at most {max_pictures} are accepted in one request; send "
            "several requests"
        )
    for index, picture in enumerate(pictures):
        if len(picture) > max_bytes:
            raise InvalidRequest(
                f"picture {index} holds {len(picture)} bytes; at most {max_bytes} are accepted; scale it down"
            )
    return pictures


def stack_pixels(found: Sequence[Found], *, max_images: int) -> Pixels:
    """The digits of pictures as one array, uint8 [N, 1, 28, 28].

    Raises:
        InvalidRequest: More than `max_images`.
    """
    if len(found) > max_images:
        raise InvalidRequest(
            f"the pictures hold {len(found)} digits; at most {max_images} are accepted in one request; send fewer"
        )
    return np.array([digit.pixels for _, digit in found], np.uint8).reshape(-1, *IMAGE_SHAPE)


def read_top_k(request: digits_pb2.ClassifyRequest) -> int:
    """How many candidates to list, 0 to 10.

    Raises:
        InvalidRequest: More than there are digits.
    """
    if request.top_k > CLASSES:
        raise InvalidRequest(f"top_k is {request.top_k}; 0 to {CLASSES} was expected")
    return request.top_k


def write_answer(answer: Answer, model: Description, *, top_k: int) -> bytes:
    """The serialised `ClassifyResponse` that carries `answer`.

    The predictions are written as one array, in protobuf's wire format. Message by message they would cost half as
    much as the rest of a call: 86 µs for 64 images, against 5 µs.
    """
    head = digits_pb2.ClassifyResponse(
        model=model.name,
        version=model.version,
        queue_us=round(answer.queue_s * 1e6),
        compute_us=round(answer.compute_s * 1e6),
        batch_size=answer.batch_size,
    )
    probabilities = answer.probabilities
    predictions = _prediction(top_k).repeat(len(probabilities))
    predictions["probabilities"] = probabilities
    if top_k:
        # Stable, so that of equal probabilities the smaller digit comes first.
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
        predictions["top"]["digit"] = order
        predictions["top"]["probability"] = np.take_along_axis(probabilities, order, axis=1)
    predictions["digit"] = probabilities.argmax(axis=1)
    # A message's fields may come in any order, so parts of a message may simply be joined.
    return head.SerializeToString() + predictions.tobytes()


def write_found(
    answer: Answer, found: Sequence[Found], model: Description, *, top_k: int, return_pixels: bool
) -> bytes:
    """The serialised `ClassifyResponse` that carries `answer`, and where in the pictures its digits were found."""
    response = digits_pb2.ClassifyResponse.FromString(write_answer(answer, model, top_k=top_k))
    for prediction, (image, digit) in zip(response.predictions, found, strict=True):
        box = digit.box
        prediction.image = image
        prediction.box.CopyFrom(digits_pb2.Box(left=box.left, top=box.top, width=box.width, height=box.height))
        prediction.warnings.extend((*digit.warnings, *doubts(prediction.probabilities[prediction.digit])))
        if return_pixels:
            prediction.pixels = digit.pixels.tobytes()
    return response.SerializeToString()


def write_model(model: Description, last_load_error: str) -> bytes:
    """The serialised `Model` that describes `model`."""
    return digits_pb2.Model(
        name=model.name,
        version=model.version,
        architecture=model.architecture,
        labels=model.labels,
        engine=model.engine,
        device=model.device,
        precision=model.precision,
        max_batch_size=model.max_batch,
        max_images_per_request=model.max_images_per_request,
        sha256=model.sha256,
        accuracy=model.accuracy,
        last_load_error=last_load_error,
    ).SerializeToString()


def write_streamed(answer: bytes) -> bytes:
    """The serialised `ClassifyStreamResponse` around a serialised `ClassifyResponse`."""
    fields = digits_pb2.ClassifyStreamResponse.DESCRIPTOR.fields_by_name
    return embedded(fields["response"].number, answer)


def write_refusal(refusal: Refusal, _: digits_pb2.ClassifyRequest | None) -> bytes:
    """The serialised `ClassifyStreamResponse` of a request that is not answered."""
    number: int = refusal.code.value[0]
    message = digits_pb2.Refusal(code=number, message=refusal.details, retry_after_ms=refusal.retry_after_ms or 0)
    return digits_pb2.ClassifyStreamResponse(refusal=message).SerializeToString()


@functools.cache
def _prediction(top_k: int) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    """One `Prediction` inside a `ClassifyResponse`, every byte in place but the values: [1], structured."""
    candidate = np.dtype([("tags", "u1", 3), ("digit", "u1"), ("tag", "u1"), ("probability", "<f4")])
    prediction = np.dtype(
        [
            ("tag", "u1"),
            ("size", "u1", 2),
            ("digit_tag", "u1"),
            ("digit", "u1"),
            ("probabilities_tag", "u1", 2),
            ("probabilities", "<f4", CLASSES),
            ("top", candidate, top_k),
        ]
    )
    fields = digits_pb2.ClassifyResponse.DESCRIPTOR.fields_by_name
    inner = digits_pb2.Prediction.DESCRIPTOR.fields_by_name
    top = digits_pb2.Candidate.DESCRIPTOR.fields_by_name
    message = np.zeros(1, prediction)
    size = prediction.itemsize - 3
    message["tag"] = tag(fields["predictions"].number, LENGTH)
    # A length in two bytes, seven bits each, though a short one would fit into one.
    message["size"] = (size & 0x7F | 0x80, size >> 7)
    message["digit_tag"] = tag(inner["digit"].number, VARINT)
    message["probabilities_tag"] = (tag(inner["probabilities"].number, LENGTH), CLASSES * 4)
    message["top"]["tags"] = (
        tag(inner["top"].number, LENGTH),
        candidate.itemsize - 2,
        tag(top["digit"].number, VARINT),
    )
    message["top"]["tag"] = tag(top["probability"].number, FIXED32)
    return message
