"""Options of all commands. The command line, YAML files, checkpoints and docs/options.md are generated from these classes.

`codecswap --help` reads these files, so they import nothing heavy.
"""

from codecswap.config.data import PrepareOptions
from codecswap.config.deployment import (
    CodingOptions,
    CompileOptions,
    DecodeOptions,
    DeployOptions,
    EncodeOptions,
    ExportOptions,
    OnnxOptions,
    PageOptions,
    QuantizeOptions,
    VerifyOptions,
)
from codecswap.config.measuring import AdviseOptions, BenchmarkOptions, DemoOptions, EvalOptions, ReportOptions
from codecswap.config.rewriting import RewriteOptions
from codecswap.config.shared import (
    ZOO,
    Form,
    Gdn,
    GdnOptions,
    Model,
    Options,
    Part,
    PictureOptions,
    Replacement,
    TeacherOptions,
    check_at_least,
    names_code,
)
from codecswap.config.training import DistillOptions, FinetuneOptions, TrainingOptions

__all__ = [
    "ZOO",
    "AdviseOptions",
    "BenchmarkOptions",
    "CodingOptions",
    "CompileOptions",
    "DecodeOptions",
    "DemoOptions",
    "DeployOptions",
    "DistillOptions",
    "EncodeOptions",
    "EvalOptions",
    "ExportOptions",
    "FinetuneOptions",
    "Form",
    "Gdn",
    "GdnOptions",
    "Model",
    "OnnxOptions",
    "Options",
    "PageOptions",
    "Part",
    "PictureOptions",
    "PrepareOptions",
    "QuantizeOptions",
    "Replacement",
    "ReportOptions",
    "RewriteOptions",
    "TeacherOptions",
    "TrainingOptions",
    "VerifyOptions",
    "check_at_least",
    "names_code",
]
