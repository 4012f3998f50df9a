"""Trains the built-in `digits` model and writes it as ONNX.

A dense network 64 -> 128 -> 96 -> 10 for 8x8 grey images of handwritten digits. Dense rather than
convolutional: at this size both reach 99 %, and matrix products are where a batch pays.

The held-out quarter of the data is never looked at while training. The hyperparameters below were
chosen by 4-fold cross-validation inside the other three quarters.

    pip install -r training/requirements.txt
    python training/train_digits.py
"""

import os

# More threads change the order of float additions, and with it the weights.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIDE = 8
PIXELS = SIDE * SIDE
PIXEL_MAX = 16.0
CLASSES = 10
HIDDEN = (128, 96)

EPOCHS = 120
WARPED_COPIES = 4
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-3
LABEL_SMOOTHING = 0.05
DROPOUT = 0.1
SEED = 0

REQUIRED_ACCURACY = 0.97


def split():
    """The fixed split: three quarters to train, a stratified quarter held out."""
    images, labels = load_digits(return_X_y=True)
    return train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)


def warp(images, random):
    """The images turned, scaled, sheared and shifted a little, each its own way."""
    count = len(images)
    angle = random.uniform(-0.2, 0.2, count)
    scale = 1 + random.uniform(-0.1, 0.1, (count, 2))
    shear = random.uniform(-0.15, 0.15, count)
    shift = random.uniform(-0.7, 0.7, (count, 2))

    centre = (SIDE - 1) / 2
    row, column = np.meshgrid(np.arange(SIDE) - centre, np.arange(SIDE) - centre, indexing="ij")

    def each(values):
        return values[:, None, None]

    sine, cosine = each(np.sin(angle)), each(np.cos(angle))
    source_row = (cosine * row - sine * column) * each(scale[:, 0]) + each(shift[:, 0])
    source_column = ((sine + each(shear)) * row + cosine * column) * each(scale[:, 1])
    source_column += each(shift[:, 1])

    # One pixel of border before and two after, so that all four neighbours always exist.
    padded = np.pad(images.reshape(count, SIDE, SIDE), ((0, 0), (1, 2), (1, 2)))
    source_row = np.clip(source_row + centre + 1, 0, SIDE + 1)
    source_column = np.clip(source_column + centre + 1, 0, SIDE + 1)
    top, left = source_row.astype(int), source_column.astype(int)
    down, right = source_row - top, source_column - left
    index = np.arange(count)[:, None, None]
    warped = (
        padded[index, top, left] * (1 - down) * (1 - right)
        + padded[index, top + 1, left] * down * (1 - right)
        + padded[index, top, left + 1] * (1 - down) * right
        + padded[index, top + 1, left + 1] * down * right
    )
    return warped.reshape(count, PIXELS)


def initial_layers(random):
    """He-initialised (weights, bias) of each layer."""
    widths = (PIXELS, *HIDDEN, CLASSES)
    return [
        (
            random.normal(0, np.sqrt(2 / fan_in), (fan_in, fan_out)).astype(np.float32),
            np.zeros(fan_out, np.float32),
        )
        for fan_in, fan_out in zip(widths, widths[1:])
    ]


def gradients(layers, images, targets, random):
    """Gradients of the cross-entropy, with dropout after each hidden layer."""
    activations, masks = [images], []
    for position, (weights, bias) in enumerate(layers):
        values = activations[-1] @ weights + bias
        if position < len(layers) - 1:
            kept = random.random(values.shape, dtype=np.float32) >= DROPOUT
            masks.append(((values > 0) & kept).astype(np.float32) / np.float32(1 - DROPOUT))
            values = values * masks[-1]
        activations.append(values)

    delta = (softmax(activations[-1]) - targets) / np.float32(len(images))
    found = []
    for position in reversed(range(len(layers))):
        found.append((activations[position].T @ delta, delta.sum(axis=0)))
        if position:
            delta = (delta @ layers[position][0].T) * masks[position - 1]
    return found[::-1]


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def train(images, labels):
    """Adam with decoupled weight decay and a cosine learning rate, on freshly warped images."""
    random = np.random.default_rng(SEED)
    layers = initial_layers(random)
    first = [[np.zeros_like(p) for p in layer] for layer in layers]
    second = [[np.zeros_like(p) for p in layer] for layer in layers]
    smoothed = np.full((CLASSES, CLASSES), LABEL_SMOOTHING / CLASSES, np.float32)
    smoothed += np.eye(CLASSES, dtype=np.float32) * (1 - LABEL_SMOOTHING)
    all_targets = np.tile(smoothed[labels], (WARPED_COPIES, 1))
    steps_per_epoch = len(all_targets) // BATCH_SIZE
    step = 0
    for _ in range(EPOCHS):
        warped = np.concatenate([warp(images, random) for _ in range(WARPED_COPIES)])
        warped = (warped / PIXEL_MAX).astype(np.float32)
        order = random.permutation(len(warped))
        for start in range(0, steps_per_epoch * BATCH_SIZE, BATCH_SIZE):
            chosen = order[start : start + BATCH_SIZE]
            step += 1
            rate = LEARNING_RATE / 2 * (1 + np.cos(np.pi * step / (EPOCHS * steps_per_epoch)))
            found = gradients(layers, warped[chosen], all_targets[chosen], random)
            for layer, gradient, m, v in zip(layers, found, first, second):
                for which in range(2):
                    m[which] += 0.1 * (gradient[which] - m[which])
                    v[which] += 0.001 * (gradient[which] ** 2 - v[which])
                    mean = m[which] / (1 - 0.9**step)
                    spread = np.sqrt(v[which] / (1 - 0.999**step)) + 1e-8
                    decay = WEIGHT_DECAY * layer[which] if which == 0 else 0.0
                    layer[which][...] -= (rate * (mean / spread + decay)).astype(np.float32)
    return layers


def predict(layers, images):
    """The network's labels, by numpy."""
    values = images.astype(np.float32) / np.float32(PIXEL_MAX)
    for position, (weights, bias) in enumerate(layers):
        values = values @ weights + bias
        if position < len(layers) - 1:
            values = np.maximum(values, 0)
    return values.argmax(axis=1)


def to_onnx(layers, accuracy):
    """The graph: raw pixels in, `label` and `scores` out, any number of rows."""
    constants = [numpy_helper.from_array(np.float32(1 / PIXEL_MAX), "pixel_scale")]
    nodes = [helper.make_node("Mul", ["image", "pixel_scale"], ["activation_0"])]
    for position, (weights, bias) in enumerate(layers):
        last = position == len(layers) - 1
        product = "logits" if last else f"product_{position}"
        names = [f"activation_{position}", f"weights_{position}", f"bias_{position}"]
        constants += [numpy_helper.from_array(weights, names[1])]
        constants += [numpy_helper.from_array(bias, names[2])]
        nodes.append(helper.make_node("Gemm", names, [product]))
        if not last:
            nodes.append(helper.make_node("Relu", [product], [f"activation_{position + 1}"]))
    nodes.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0))
    nodes.append(helper.make_node("Softmax", ["logits"], ["scores"], axis=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", PIXELS])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "training/train_digits.py"
    helper.set_model_props(model, {"held_out_accuracy": f"{accuracy:.4f}"})
    onnx.checker.check_model(model, full_check=True)
    return model


def write_held_out(path, images, labels):
    """One image a line: its label, then its 64 pixels, row by row."""
    header = "label," + ",".join(f"pixel_{index}" for index in range(PIXELS))
    rows = np.column_stack([labels, images]).astype(int)
    np.savetxt(path, rows, fmt="%d", delimiter=",", header=header, comments="")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/digits.onnx")
    parser.add_argument(
        "--held-out", type=pathlib.Path, default=ROOT / "tests/data/digits_heldout.csv"
    )
    arguments = parser.parse_args()

    train_images, held_out_images, train_labels, held_out_labels = split()
    layers = train(train_images, train_labels)
    right = int((predict(layers, held_out_images) == held_out_labels).sum())
    accuracy = right / len(held_out_labels)
    print(f"held-out accuracy: {accuracy:.4f} ({right} of {len(held_out_labels)})")
    if accuracy < REQUIRED_ACCURACY:
        sys.exit(f"below the required {REQUIRED_ACCURACY:.2f}: nothing written")

    arguments.model.parent.mkdir(parents=True, exist_ok=True)
    arguments.held_out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(layers, accuracy), arguments.model)
    write_held_out(arguments.held_out, held_out_images, held_out_labels)
    print(f"{arguments.model}: {arguments.model.stat().st_size} bytes")
    print(f"{arguments.held_out}: {len(held_out_labels)} images")


if __name__ == "__main__":
    main()
