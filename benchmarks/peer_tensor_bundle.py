"""Write checkpoints with TensorFlow, with their values in values.npz (and outputs in x.npy, y.npy).

usage: peer_tensor_bundle.py OUT    Run with a Python that has TensorFlow, 1.2 or later; for 2.x also `tf_slim`, which
works up to 2.11: with later versions, no models are written. One folder per case; its checkpoint has the prefix model-x.ckpt-7.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow

tf = getattr(getattr(tensorflow, "compat", None), "v1", tensorflow)
IS_2 = tf is not tensorflow and not tensorflow.__version__.startswith("1.")
if IS_2:
    tf.disable_v2_behavior()
try:
    slim = __import__("tf_slim") if IS_2 else tf.contrib.slim
except ImportError:
    slim = None

RANDOM = np.random.RandomState(0)


def values_of(code, shape):
    """Any bits at all of that type, NaNs and denormal numbers among them."""
    if code == "?":
        return np.asarray(RANDOM.rand(*shape) > 0.5)
    dtype = np.dtype(code)
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return np.frombuffer(RANDOM.bytes(n_bytes), dtype).reshape(shape)


def variable(name, value, **options):
    holder = tf.placeholder(value.dtype.name, value.shape)
    made = tf.get_variable(name, initializer=holder, **options)
    return made, {holder: value}


def save(out, case, build, **options):
    """Builds the variables of a case, saves them, and keeps what TensorFlow reads from them."""
    folder = os.path.join(out, case)
    os.makedirs(folder)
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"CPU": 3})) as session:
        feed, values = build()
        session.run(tf.global_variables_initializer(), feed)
        saver = tf.train.Saver(**options)
        saver.save(session, os.path.join(folder, "model-x.ckpt-7"))
        values = session.run(values)
    np.savez(os.path.join(folder, "values.npz"), **values)


def types(resource):
    def build():
        feed, values = {}, {}
        codes = ["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "c8", "c16", "?"]
        for code in codes + (["u4", "u8"] if IS_2 else []):
            for shape in ((), (7,), (3, 5, 2), (0, 4)):
                name = "{}/{}".format(np.dtype(code).name, "x".join(map(str, shape)) or "scalar")
                values[name], more = variable(name, values_of(code, shape), use_resource=resource)
                feed.update(more)
        return feed, values

    return build


def many():
    """Names with long common beginnings and names without, so long that the index has several blocks."""
    feed, values = {}, {}
    for k in range(1200):
        name = f"scope/{'common/' * 40}variable_{k}" if k % 2 else f"{k % 97}_{k}/{'long' * 200}"
        values[name], more = variable(name, values_of("f4", (k % 7, 3)))
        feed.update(more)
    return feed, values


def partitioned(resource):
    def build():
        values = {}
        for shape, axis, parts in (
            ((10, 4), 0, 3),
            ((300, 3), 0, 100),
            ((2, 70, 3), 1, 4),
            ((5,), 0, 5),
            ((64, 1), 0, 64),
        ):
            name = "part/{}_{}".format("x".join(map(str, shape)), parts)
            cut = tf.fixed_size_partitioner(parts, axis=axis)
            made = tf.get_variable(
                name, shape, initializer=tf.random_normal_initializer(), partitioner=cut, use_resource=resource
            )
            values[name] = tf.convert_to_tensor(made)
        values["plain"] = tf.get_variable("plain", [3], initializer=tf.random_normal_initializer())
        return {}, values

    return build


def shards():
    feed, values = {}, {}
    for k in range(30):
        with tf.device(f"/cpu:{k % 3}"):
            values[f"v{k}"], more = variable(f"v{k}", values_of("f4", (k, 5)))
            feed.update(more)
    return feed, values


def network(images, phase):
    """A face network in small: what the 2018 ones are made of, in the way they were written."""
    norm = {"decay": 0.9, "epsilon": 0.001, "updates_collections": None, "is_training": phase}
    layers = [slim.conv2d, slim.fully_connected]
    with slim.arg_scope(layers, normalizer_fn=slim.batch_norm, normalizer_params=norm), tf.variable_scope("Net"):
        x = slim.conv2d(images, 16, 3, stride=2, padding="VALID", scope="Conv2d_1a_3x3")
        x = slim.max_pool2d(x, 3, stride=2, padding="VALID", scope="MaxPool_3a_3x3")
        branches = [slim.conv2d(x, 8, 1, scope="Branch_0"), slim.conv2d(x, 8, 3, scope="Branch_1")]
        up = slim.conv2d(tf.concat(branches, 3), 16, 1, normalizer_fn=None, activation_fn=None, scope="Conv2d_1x1")
        x = tf.nn.relu(x + 0.17 * up)
        x = slim.avg_pool2d(x, x.get_shape()[1:3], padding="VALID", scope="AvgPool_1a_8x8")
        x = slim.dropout(slim.flatten(x), 0.8, is_training=phase, scope="Dropout")
        return slim.fully_connected(x, 24, activation_fn=None, scope="Bottleneck")


def trained(out, case, queue, resource=False):
    """Some steps of training as the 2018 trainers do them, the model saved as they do."""
    folder = os.path.join(out, case)
    os.makedirs(folder)
    with tf.Graph().as_default(), tf.Session() as session, tf.variable_scope("", use_resource=resource):
        phase, rate = tf.placeholder(tf.bool, name="phase_train"), tf.placeholder(tf.float32, name="learning_rate")
        if queue:
            fifo = tf.FIFOQueue(100, [tf.float32, tf.int64], [(40, 40, 3), ()])
            image, label = fifo.dequeue()
            image = tf.image.random_flip_left_right(tf.random_crop(image, (32, 32, 3)))
            images, labels = tf.train.batch_join(
                [[tf.image.per_image_standardization(image), label]],
                16,
                shapes=[(32, 32, 3), ()],
                allow_smaller_final_batch=True,
            )
            images = tf.identity(tf.identity(images, "image_batch"), "input")
            labels = tf.identity(labels, "label_batch")
        else:
            images, labels = tf.placeholder(tf.float32, (None, 32, 32, 3), "input"), tf.placeholder(tf.int64, (None,))
        features = network(images, phase)
        logits = slim.fully_connected(features, 10, activation_fn=None, scope="Logits")
        embeddings = tf.nn.l2_normalize(features, 1, 1e-10, name="embeddings")
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        train = tf.train.RMSPropOptimizer(rate, 0.9, momentum=0.9, epsilon=1.0).minimize(loss)
        session.run(tf.global_variables_initializer())
        for _ in range(20):
            batch = RANDOM.randn(16, 32, 32, 3).astype("f4"), RANDOM.randint(0, 10, 16)
            session.run(train, {images: batch[0], labels: batch[1], phase: True, rate: 0.05})
        wanted = {
            v.op.name: v for v in tf.global_variables() if v.op.name.startswith("Net/") and "RMSProp" not in v.op.name
        }
        saver = tf.train.Saver(list(wanted.values()))
        saver.save(session, os.path.join(folder, "model-x.ckpt-7"), write_meta_graph=False)
        saver.export_meta_graph(os.path.join(folder, "model-x.meta"))
        x = RANDOM.randn(5, 32, 32, 3).astype("f4")
        np.save(os.path.join(folder, "x.npy"), x)
        np.save(os.path.join(folder, "y.npy"), session.run(embeddings, {images: x, phase: False}))
        values = session.run(wanted)
    np.savez(os.path.join(folder, "values.npz"), **values)


def main():
    out = sys.argv[1]
    save(out, "types", types(False))
    save(out, "many tensors", many)
    save(out, "partitioned", partitioned(False))
    save(out, "three data files", shards, sharded=True)
    if IS_2:
        save(out, "types, resources", types(True))
        save(out, "partitioned, resources", partitioned(True))
    save(out, "one file", shards, write_version=tf.train.SaverDef.V1)
    if slim is not None:
        trained(out, "model", False)
        if IS_2:
            trained(out, "model, resources", False, resource=True)
        else:
            trained(out, "model behind a queue", True)
    print(tf.VERSION if hasattr(tf, "VERSION") else tensorflow.__version__)


if __name__ == "__main__":
    main()
