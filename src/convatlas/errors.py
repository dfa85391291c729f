"""The exceptions convatlas raises for a user's mistake, each one a line that says what was given and what was expected."""


class ConvAtlasError(Exception):
    """Base of every error convatlas raises on purpose; the command line prints its message alone and exits with 2."""


class ArgumentError(ConvAtlasError, ValueError):
    """An argument that is wrong whatever the shapes: an unknown activation or operand, or no number where one is needed."""


class ShapeError(ConvAtlasError, ValueError):
    """Shapes, strides, paddings or other parameters that do not fit together."""


class DtypeError(ConvAtlasError, TypeError):
    """A dtype an op or a backend does not take, or dtypes that differ where one is needed."""


class BackendError(ConvAtlasError, RuntimeError):
    """A backend that cannot run here, with what would make it run."""


class CheckError(ConvAtlasError, AssertionError):
    """An output outside the reference's error bound, found by convatlas.checking."""


class NetError(ConvAtlasError, ValueError):
    """An unknown network, or weights that do not fit one."""


class ConvAtlasWarning(UserWarning):
    """Something that works, and that a user should know; the command line prints it as one line."""


class InputError(ConvAtlasError, ValueError):
    """A file that is missing or cannot be read as what it should be."""
