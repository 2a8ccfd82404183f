"""What a model file may name: everything an image classifier needs, and nothing that reads, writes, calls or imports.

Not listed, and so refused, are above all: ``Lambda`` (Python code), ``TFSMLayer``, ``TorchModuleWrapper``,
``JaxLayer`` and ``FlaxLayer`` (load another program), ``StringLookup``, ``IntegerLookup`` and ``TextVectorization``
(open a file that the configuration names), ``TensorFlowOpLayer``, ``ClassMethod``, ``InstanceMethod`` and
``InstanceProperty`` (any TensorFlow symbol).
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MODELS = _words("Functional Model Sequential")

LAYERS = _words(
    """
    InputLayer Activation ReLU LeakyReLU PReLU ELU Softmax ThresholdedReLU
    Conv1D Conv2D Conv2DTranspose DepthwiseConv2D SeparableConv2D Convolution2D SeparableConvolution2D Dense
    BatchNormalization BatchNormalizationV1 BatchNormalizationV2 SyncBatchNormalization LayerNormalization
    GroupNormalization UnitNormalization Normalization Rescaling SpectralNormalization
    MaxPooling2D MaxPool2D AveragePooling2D AvgPool2D GlobalAveragePooling2D GlobalAvgPool2D GlobalMaxPooling2D
    GlobalMaxPool2D
    ZeroPadding2D Cropping2D UpSampling2D Resizing CenterCrop Flatten Reshape Permute RepeatVector
    Add Subtract Multiply Average Maximum Minimum Concatenate Dot Identity
    Dropout SpatialDropout2D GaussianDropout GaussianNoise AlphaDropout ActivityRegularization
    RandomFlip RandomRotation RandomZoom RandomTranslation RandomContrast RandomBrightness RandomCrop RandomHeight
    RandomWidth RandomHue RandomSaturation RandomSharpness RandomShear RandomGaussianBlur RandomColorJitter
    RandomGrayscale RandomPosterization RandomErasing RandomInvert RandomColorDegeneration RandomPerspective
    RandomElasticTransform RandAugment AugMix MixUp CutMix Equalization AutoContrast Solarization Pipeline
    LayerScale CustomScaleLayer StochasticDepth
    """
)
"""LayerScale, CustomScaleLayer and StochasticDepth belong to ``keras.applications``."""

KERAS3_OPERATIONS = _words(
    """
    GetItem Stack Concatenate Split Flip Reshape Transpose Squeeze ExpandDims BroadcastTo Repeat Pad Cast
    Add Subtract Multiply Divide TrueDivide Negative Abs Absolute Power Square Sqrt Rsqrt Exp Log Maximum Minimum Clip
    Mean Sum Max Min Var Std Matmul Sigmoid Softmax Relu Relu6 Silu Swish Gelu HardSigmoid HardSilu HardSwish Tanh
    LeakyRelu Elu Selu Softplus Softsign LogSoftmax Identity
    """
)
"""What Keras 3 makes of arithmetic between layers (``preprocess_input`` called inline)."""

TENSORFLOW_FUNCTIONS = _words(
    """
    __operators__.getitem __operators__.add __operators__.subtract math.truediv math.divide math.multiply math.subtract
    math.add math.negative math.abs math.square math.sqrt math.rsqrt math.exp math.log math.pow math.maximum
    math.minimum math.reduce_mean math.reduce_max math.reduce_min math.reduce_sum math.reduce_variance math.reduce_std
    math.sigmoid math.tanh math.softplus math.l2_normalize
    clip_by_value cast reverse concat stack unstack split transpose reshape expand_dims squeeze identity pad tile
    compat.v1.transpose compat.v1.nn.softmax
    nn.bias_add nn.relu nn.relu6 nn.leaky_relu nn.sigmoid nn.softmax nn.swish nn.silu nn.gelu nn.elu nn.l2_normalize
    nn.avg_pool nn.max_pool nn.avg_pool2d nn.max_pool2d nn.conv2d nn.depthwise_conv2d linalg.matmul
    image.flip_left_right image.flip_up_down image.per_image_standardization image.resize image.convert_image_dtype
    keras.activations.swish keras.activations.gelu keras.activations.relu keras.activations.sigmoid
    """
)
"""What Keras 2 makes of arithmetic between layers: the public TensorFlow names in a ``TFOpLambda``."""

TENSORFLOW_LAYERS = _words("TFOpLambda SlicingOpLambda")

PARTS = _words(
    """
    DTypePolicy Policy PolicyV1 FloatDTypePolicy
    Zeros Ones Constant RandomNormal RandomUniform TruncatedNormal VarianceScaling Orthogonal Identity GlorotUniform
    GlorotNormal HeNormal HeUniform LecunNormal LecunUniform glorot_uniform
    L1 L2 L1L2 OrthogonalRegularizer MaxNorm NonNeg UnitNorm MinMaxNorm SeedGenerator InputSpec
    __tensor__ __numpy__ __bytes__ __keras_tensor__ __tuple__ __ellipsis__ __slice__ TensorShape
    """
)
"""Initialisers, regularisers, constraints, policies, and the writers' own marks."""

TRAINING = _words(
    """
    Adam AdamW Adamax Nadam SGD RMSprop Adagrad Adadelta Ftrl Lion Adafactor LossScaleOptimizer LossScaleOptimizerV3
    ExponentialDecay CosineDecay CosineDecayRestarts PiecewiseConstantDecay PolynomialDecay InverseTimeDecay
    BinaryCrossentropy CategoricalCrossentropy SparseCategoricalCrossentropy BinaryFocalCrossentropy
    CategoricalFocalCrossentropy MeanSquaredError MeanAbsoluteError Hinge Huber
    BinaryAccuracy CategoricalAccuracy SparseCategoricalAccuracy Accuracy AUC Precision Recall Mean F1Score FBetaScore
    TruePositives TrueNegatives FalsePositives FalseNegatives SensitivityAtSpecificity SpecificityAtSensitivity
    PrecisionAtRecall RecallAtPrecision MeanMetricWrapper
    """
)
"""Optimisers, losses and metrics of a nested model that was compiled; the outer model's are not read at all."""

FUNCTIONS = _words(
    """
    linear relu relu6 sigmoid softmax tanh elu selu gelu swish silu softplus softsign exponential hard_sigmoid hard_silu
    hard_swish leaky_relu mish log_softmax binary_crossentropy categorical_crossentropy sparse_categorical_crossentropy
    """
)
"""Activations and losses that a configuration names as functions."""

OWN_PACKAGE = "glomedge>"
OWN_LAYERS = _words("RgbScaling Augmentation")

CLASSES = MODELS | LAYERS | KERAS3_OPERATIONS | TENSORFLOW_LAYERS | PARTS | TRAINING

GRAPH_OPERATIONS = _words(
    """
    Abs Add AddN AddV2 All Any ArgMax AvgPool BatchMatMulV2 BiasAdd Bitcast BroadcastArgs BroadcastTo Cast Ceil
    ClipByValue Concat ConcatV2 Const Conv2D Cos CropAndResize DepthwiseConv2dNative Div DivNoNan DynamicStitch Einsum
    Elu EnsureShape Equal Erf Erfc Exp ExpandDims Fill Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2
    FusedBatchNormV3 Gather GatherNd GatherV2 Greater GreaterEqual GuaranteeConst Identity IdentityN
    ImageProjectiveTransformV2 ImageProjectiveTransformV3 Inv Invert L2Loss LeakyRelu Less LessEqual LinSpace Log Log1p
    LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul Max MaxPool MaxPoolV2 Maximum Mean Min Minimum MirrorPad Mod Mul
    Neg NoOp NotEqual OneHot OnesLike Pack Pad PadV2 Placeholder PlaceholderWithDefault Pow PreventGradient Prod Range
    Rank RealDiv Reciprocal Relu Relu6 Reshape ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor Reverse
    ReverseV2 RngReadAndSkip Roll Round Rsqrt Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Size Slice Snapshot
    Softmax Softplus Softsign SpaceToBatchND BatchToSpaceND SpaceToDepth DepthToSpace Split SplitV Sqrt Square
    SquaredDifference Squeeze StopGradient StridedSlice Sub Sum Tan Tanh Tile TopKV2 Transpose Unpack Where Xlogy
    ZerosLike AdjustContrastv2 AdjustHue AdjustSaturation HSVToRGB RGBToHSV
    RandomUniform RandomUniformInt RandomStandardNormal TruncatedNormal StatelessRandomGetAlg
    StatelessRandomGetKeyCounter
    StatelessRandomGetKeyCounterAlg StatelessRandomNormalV2 StatelessRandomUniform StatelessRandomUniformFullInt
    StatelessRandomUniformFullIntV2 StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2
    StatelessTruncatedNormalV2 StatelessRandomNormal RngSkip
    VarHandleOp ReadVariableOp AssignVariableOp AssignAddVariableOp AssignSubVariableOp VarIsInitializedOp
    DisableCopyOnRead ResourceGather
    PartitionedCall StatefulPartitionedCall If StatelessIf StatelessWhile While StatelessCase Case
    """
)
"""TensorFlow operations that only compute, and the model's own variables."""

RANDOM_OPERATIONS = frozenset(name for name in GRAPH_OPERATIONS if "Random" in name or name.startswith("Rng"))

SAVER_OPERATIONS = _words(
    "StaticRegexFullMatch StringJoin ShardedFilename SaveV2 MergeV2Checkpoints RestoreV2 StringFormat"
)
"""Of the two functions that save and restore variables, which every SavedModel holds and glomedge never calls."""
