"""Input situations: what an image is, what holds it, and what its label is; and what comes of each.

The one table of them. `sources/test_situations.py` makes each and tries it; the docs show it (`docs/from_code.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

FOLDER = "folder, as a text"
IMAGE_FOLDER = "`ImageFolder`"
IMAGE_FOLDER_TEXT = "`torchvision:ImageFolder?root=`"
MAP = "map-style dataset"
SUBSET = "`Subset`"
CONCAT = "`ConcatDataset`"
STACK = "`StackDataset`"
LIST = "list of pairs"
TENSORS = "`TensorDataset`"
HF_SUBSET = "`Subset` of `datasets`"
HF = "`datasets`, `Image()`"
HF_GREY = '`datasets`, `Image(mode="L")`'
HF_CMYK = '`datasets`, `Image(mode="CMYK")`'
HF_BYTES = "`datasets`, `Image(decode=False)`"
HF_PATHS = "`datasets`, paths"
HF_TEXT = "`hf:PATH`"
EXPANDED = "expanded folder"

CLASS_FOLDER = "its folder"
INT, BOOL, ENUM = "int", "bool", "`IntEnum`"
INT64, UINT8, TENSOR, ARRAY = "`np.int64`", "`np.uint8`", "tensor", "array of one"
CLASS_LABEL, VALUE_TEXT, VALUE_INT = "`ClassLabel`", '`Value("string")`', '`Value("int64")`'
VALUE_BOOL = '`Value("bool")`'
NEGATIVE, NEGATIVE_CLASS = "-1 for one image", "-1 for a class"
MISSING, UNKNOWN = "`None` for one image", "no class's name for one image"
TEXT, FRACTION, TOO_LARGE = "text", "0.5", "2 of two classes"

KEPT, LEFT_OUT, REFUSED = "kept", "left out", "refused"


@dataclass(frozen=True)
class Situation:
    """A dataset of five images and what comes of it.

    Attributes:
        form: What the images are; of one that is left out, what it is, and the others are ordinary ones.
        container: What holds them.
        label: Their labels.
        outcome: All are kept; one is left out, named in a warning and in ``.bad``; or the dataset is refused.
        says: What seeds and copies are, if they are kept; otherwise words of the warning or the error.
    """

    form: str
    container: str
    label: str
    outcome: str
    says: str


_KEPT = (
    # PIL images
    ("PIL RGB", MAP, INT, "RGB, 16 x 24"),
    ("PIL RGB", SUBSET, INT, "RGB, 16 x 24"),
    ("PIL RGB", CONCAT, BOOL, "RGB, 16 x 24"),
    ("PIL RGB", STACK, INT, "RGB, 16 x 24"),
    ("PIL RGB", LIST, INT, "RGB, 16 x 24"),
    ("PIL RGB", HF, CLASS_LABEL, "RGB, 16 x 24"),
    ("PIL RGB", EXPANDED, ENUM, "RGB, 16 x 24"),
    ("PIL L", MAP, ENUM, "L, 16 x 24"),
    ("PIL L", CONCAT, INT, "L, 16 x 24"),
    ("PIL L", HF, VALUE_INT, "L, 16 x 24"),
    ("PIL L", EXPANDED, INT, "RGB, 16 x 24"),
    ("PIL L", HF, VALUE_BOOL, "L, 16 x 24"),
    ("PIL L", LIST, BOOL, "L, 16 x 24"),
    ("PIL RGBA", MAP, INT64, "RGBA, 16 x 24"),
    ("PIL RGBA", HF, VALUE_TEXT, "RGBA, 16 x 24"),
    ("PIL RGBA", HF_BYTES, CLASS_LABEL, "file of RGBA, 16 x 24"),
    ("PIL LA", MAP, INT, "LA, 16 x 24"),
    ("PIL LA", HF, CLASS_LABEL, "LA, 16 x 24"),
    ("PIL P", MAP, BOOL, "P, 16 x 24"),
    ("PIL P", SUBSET, INT64, "P, 16 x 24"),
    ("PIL P", HF, VALUE_INT, "P, 16 x 24"),
    ("PIL P, one colour transparent", MAP, INT, "P, 16 x 24"),
    ("PIL P, one colour transparent", HF, CLASS_LABEL, "P, 16 x 24"),
    ("PIL L, one colour transparent", MAP, INT, "L, 16 x 24"),
    ("PIL L, one colour transparent", SUBSET, BOOL, "L, 16 x 24"),
    ("PIL RGB, one colour transparent", CONCAT, INT, "RGB, 16 x 24"),
    ("PIL RGB, one colour transparent", HF, CLASS_LABEL, "RGB, 16 x 24"),
    ("PIL RGB, one colour transparent", HF_BYTES, VALUE_INT, "file of RGB, 16 x 24"),
    ("png of a palette, one colour transparent", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("png of a palette, one colour transparent", IMAGE_FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("PIL PA", MAP, INT, "PA, 16 x 24"),
    ("PIL PA", CONCAT, ENUM, "PA, 16 x 24"),
    ("PIL 1", MAP, INT, "1, 16 x 24"),
    ("PIL 1", HF, CLASS_LABEL, "1, 16 x 24"),
    ("PIL I;16", MAP, UINT8, "I;16, 16 x 24"),
    ("PIL I;16", HF, VALUE_TEXT, "I;16, 16 x 24"),
    ("PIL I", MAP, INT, "I, 16 x 24"),
    ("PIL I", SUBSET, BOOL, "I, 16 x 24"),
    ("PIL F, in [0, 1]", MAP, INT, "F, 16 x 24"),
    ("PIL F, in [0, 1]", CONCAT, INT64, "F, 16 x 24"),
    ("PIL CMYK", MAP, INT, "CMYK, 16 x 24"),
    ("PIL CMYK", HF, CLASS_LABEL, "CMYK, 16 x 24"),
    ("PIL YCbCr", MAP, INT, "YCbCr, 16 x 24"),
    ("PIL YCbCr", SUBSET, ENUM, "YCbCr, 16 x 24"),
    ("PIL HSV", MAP, INT, "HSV, 16 x 24"),
    ("PIL HSV", CONCAT, TENSOR, "HSV, 16 x 24"),
    ("PIL RGB, one pixel", MAP, INT, "RGB, 1 x 1"),
    ("PIL RGB, one pixel", HF, CLASS_LABEL, "RGB, 1 x 1"),
    # arrays
    ("array (H, W), uint8", MAP, INT, "array (24, 16), uint8"),
    ("array (H, W), uint8", HF, CLASS_LABEL, "L, 16 x 24"),
    ("array (H, W, 1), uint8", MAP, ARRAY, "array (24, 16, 1), uint8"),
    ("array (H, W, 1), uint8", SUBSET, INT, "array (24, 16, 1), uint8"),
    ("array (H, W, 3), uint8", MAP, INT64, "array (24, 16, 3), uint8"),
    ("array (H, W, 3), uint8", CONCAT, ARRAY, "array (24, 16, 3), uint8"),
    ("array (H, W, 3), uint8", EXPANDED, BOOL, "RGB, 16 x 24"),
    ("`np.memmap` (H, W, 3), uint8", MAP, INT, "memmap (24, 16, 3), uint8"),
    ("`np.memmap` (H, W, 3), uint8", SUBSET, INT64, "memmap (24, 16, 3), uint8"),
    ("array (H, W), uint16", MAP, INT, "array (24, 16), uint16"),
    ("array (H, W), uint16", SUBSET, INT64, "array (24, 16), uint16"),
    ("array (H, W), bool", MAP, INT, "array (24, 16), bool"),
    ("array (H, W), bool", CONCAT, BOOL, "array (24, 16), bool"),
    ("array (H, W), float16 in [0, 1]", MAP, INT, "array (24, 16), float16"),
    ("array (H, W), float16 in [0, 1]", LIST, INT64, "array (24, 16), float16"),
    ("array (3, H, W), uint8", MAP, INT, "array (3, 24, 16), uint8"),
    ("array (3, H, W), uint8", SUBSET, UINT8, "array (3, 24, 16), uint8"),
    ("array (H, W, 3), float32 in [0, 1]", MAP, INT, "array (24, 16, 3), float32"),
    ("array (H, W, 3), float32 in [0, 1]", STACK, INT, "array (24, 16, 3), float32"),
    ("array (3, H, W), float64 in [0, 1]", MAP, UINT8, "array (3, 24, 16), float64"),
    ("array (3, H, W), float64 in [0, 1]", SUBSET, INT, "array (3, 24, 16), float64"),
    # tensors
    ("tensor (3, H, W), uint8", MAP, TENSOR, "Tensor (3, 24, 16), uint8"),
    ("tensor (3, H, W), uint8", SUBSET, TENSOR, "Tensor (3, 24, 16), uint8"),
    ("tensor (3, H, W), uint8", TENSORS, TENSOR, "Tensor (3, 24, 16), uint8"),
    ("tensor (H, W, 3), uint8", MAP, INT, "Tensor (24, 16, 3), uint8"),
    ("tensor (H, W, 3), uint8", TENSORS, TENSOR, "Tensor (24, 16, 3), uint8"),
    ("tensor (H, W), float64 in [0, 1]", MAP, INT, "Tensor (24, 16), float64"),
    ("tensor (H, W), float64 in [0, 1]", TENSORS, TENSOR, "Tensor (24, 16), float64"),
    ("tensor (1, H, W), float32 in [0, 1]", MAP, INT, "Tensor (1, 24, 16), float32"),
    ("tensor (1, H, W), float32 in [0, 1]", STACK, TENSOR, "Tensor (1, 24, 16), float32"),
    ("tensor (3, H, W), bfloat16 in [0, 1]", MAP, INT, "Tensor (3, 24, 16), bfloat16"),
    ("tensor (3, H, W), bfloat16 in [0, 1]", CONCAT, INT, "Tensor (3, 24, 16), bfloat16"),
    ("`tv_tensors.Image`", MAP, INT, "Image (3, 24, 16), uint8"),
    ("`tv_tensors.Image`", SUBSET, BOOL, "Image (3, 24, 16), uint8"),
    # files
    ("png", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("png", IMAGE_FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("png", IMAGE_FOLDER_TEXT, CLASS_FOLDER, "RGB, 16 x 24"),
    ("png", HF_GREY, CLASS_LABEL, "L, 16 x 24"),
    ("png", HF_CMYK, VALUE_INT, "CMYK, 16 x 24"),
    ("png", HF_TEXT, CLASS_LABEL, "RGB, 16 x 24"),
    ("jpg", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("jpg", HF_GREY, VALUE_TEXT, "L, 16 x 24"),
    ("jpg", HF_PATHS, CLASS_LABEL, "RGB, 16 x 24"),
    ("jpg", HF_CMYK, CLASS_LABEL, "CMYK, 16 x 24"),
    ("webp", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("webp", HF_PATHS, VALUE_INT, "RGB, 16 x 24"),
    ("webp", HF_TEXT, VALUE_TEXT, "RGB, 16 x 24"),
    ("tiff", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("tiff", IMAGE_FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("bmp", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("bmp", IMAGE_FOLDER_TEXT, CLASS_FOLDER, "RGB, 16 x 24"),
    ("gif", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("gif", MAP, INT, "P, 16 x 24"),
    ("animated gif", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("animated gif", MAP, INT, "P, 16 x 24"),
    ("animated gif", HF, CLASS_LABEL, "P, 16 x 24"),
    ("png of 16 bits", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("png of 16 bits", MAP, INT, "I;16, 16 x 24"),
    ("png of 16 bits", HF_BYTES, VALUE_INT, "file of I;16, 16 x 24"),
    ("png with alpha", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("png with alpha", EXPANDED, INT, "RGB, 16 x 24"),
    ("jpg in CMYK", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("jpg in CMYK", MAP, INT, "CMYK, 16 x 24"),
    ("jpg in CMYK", IMAGE_FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("jpg turned by its Exif", FOLDER, CLASS_FOLDER, "RGB, 24 x 16"),
    ("jpg turned by its Exif", IMAGE_FOLDER, CLASS_FOLDER, "RGB, 24 x 16"),
    ("jpg turned by its Exif", IMAGE_FOLDER_TEXT, CLASS_FOLDER, "RGB, 24 x 16"),
    ("jpg turned by its Exif", MAP, INT, "RGB, 24 x 16"),
    ("jpg turned by its Exif", SUBSET, INT, "RGB, 24 x 16"),
    ("jpg turned by its Exif", CONCAT, BOOL, "RGB, 24 x 16"),
    ("jpg turned by its Exif", STACK, INT, "RGB, 24 x 16"),
    ("jpg turned by its Exif", EXPANDED, INT, "RGB, 24 x 16"),
    ("jpg turned by its Exif", HF, CLASS_LABEL, "RGB, 24 x 16"),
    ("jpg turned by its Exif", HF_GREY, VALUE_INT, "L, 24 x 16"),
    ("jpg turned by its Exif", HF_PATHS, CLASS_LABEL, "RGB, 24 x 16"),
    ("jpg turned by its Exif", HF_BYTES, VALUE_TEXT, "file of RGB, 24 x 16"),
    ("png of a palette turned by its Exif", FOLDER, CLASS_FOLDER, "RGB, 24 x 16"),
    ("png of a palette turned by its Exif", IMAGE_FOLDER, CLASS_FOLDER, "RGB, 24 x 16"),
    ("png of a palette turned by its Exif", MAP, INT, "P, 24 x 16"),
    ("png of a palette turned by its Exif", HF_BYTES, VALUE_INT, "file of P, 24 x 16"),
    ("webp with alpha turned by its Exif", FOLDER, CLASS_FOLDER, "RGB, 24 x 16"),
    ("webp with alpha turned by its Exif", MAP, INT64, "RGBA, 24 x 16"),
    ("webp with alpha turned by its Exif", HF, CLASS_LABEL, "RGBA, 24 x 16"),
    ("tiff turned by its Exif", FOLDER, CLASS_FOLDER, "RGB, 24 x 16"),
    ("tiff turned by its Exif", IMAGE_FOLDER, CLASS_FOLDER, "RGB, 24 x 16"),
    ("tiff turned by its Exif", MAP, INT, "RGB, 24 x 16"),
    ("jpg turned by its Exif, as an array", MAP, INT, "array (24, 16, 3), uint8"),
    ("jpg turned by its Exif, as an array", SUBSET, BOOL, "array (24, 16, 3), uint8"),
    ("tiff of floats in [0, 1]", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("tiff of floats in [0, 1]", MAP, INT, "F, 16 x 24"),
    ("png called .jpg", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("png called .jpg", HF_PATHS, VALUE_TEXT, "RGB, 16 x 24"),
    ("png called .PNG, deep below its class", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("png called .PNG, deep below its class", IMAGE_FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("png with bytes behind its end", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("png with bytes behind its end", HF, VALUE_BOOL, "RGB, 16 x 24"),
    ("jpg of grey", FOLDER, CLASS_FOLDER, "RGB, 16 x 24"),
    ("jpg of grey", HF, CLASS_LABEL, "L, 16 x 24"),
    ("jpg of grey", MAP, INT, "L, 16 x 24"),
)

_LEFT_OUT = (
    # forms that have no way back
    ("PIL LAB", MAP, INT, "row 2: no copy can be an image of mode LAB"),
    ("PIL RGBX", MAP, INT, "row 2: no copy can be an image of mode RGBX"),
    ("PIL RGBX", LIST, INT, "row 2: no copy can be an image of mode RGBX"),
    ("PIL I, all below 256", MAP, INT, "row 2: values of int32 must fill 0 to 65,535"),
    ("PIL F, beyond [0, 1]", HF, CLASS_LABEL, "row 2: values of float32 must lie in [0, 1]"),
    ("PIL F, beyond [0, 1]", SUBSET, INT, "row 2: values of float32 must lie in [0, 1]"),
    ("array (H, W, 4), uint8", MAP, BOOL, "row 2: an array of shape (24, 16, 4) is not an image"),
    ("array (H, W, 2), uint8", CONCAT, INT, "row 2: an array of shape (24, 16, 2) is not an image"),
    ("array (H, W), int32", MAP, INT, "row 2: an array of int32 has no white"),
    ("array (H, W, 3), float32 beyond [0, 1]", MAP, INT64, "row 2: values of float32 must lie in [0, 1]"),
    ("array (H, W, 3), float32 with a NaN", SUBSET, INT, "row 2: values of float32 must lie in [0, 1]"),
    ("array (H, W, 3), float32 with a NaN", MAP, ENUM, "row 2: values of float32 must lie in [0, 1]"),
    ("array (H, W, 3), float32 beyond [0, 1]", LIST, INT, "row 2: values of float32 must lie in [0, 1]"),
    ("array (H, W), uint16 below 256", MAP, INT, "row 2: values of uint16 must fill 0 to 65,535"),
    ("array (H, W), uint16 below 256", CONCAT, BOOL, "row 2: values of uint16 must fill 0 to 65,535"),
    ("array (H, W), int8", MAP, INT, "row 2: an array of int8 has no white"),
    ("array (H, W), complex64", MAP, INT, "row 2: an array of complex64 has no white"),
    ("array (H, W), of objects", MAP, INT, "row 2: an array of object has no white"),
    ("array (2, H, W, 3), uint8", MAP, INT, "row 2: an array of shape (2, 24, 16, 3) is not an image"),
    ("array (N,), uint8", SUBSET, INT, "row 2: an array of shape (16,) is not an image"),
    ("tensor (4, H, W), uint8", MAP, TENSOR, "row 2: an array of shape (4, 24, 16) is not an image"),
    ("sparse tensor", MAP, INT, "row 2: no pixels can be read of a tensor"),
    ("sparse tensor", LIST, INT, "row 2: no pixels can be read of a tensor"),
    ("PIL RGB without pixels", MAP, INT, "row 2: 0 x 24 pixels are not an image"),
    ("PIL RGB without pixels", LIST, BOOL, "row 2: 0 x 24 pixels are not an image"),
    ("array with a mask", MAP, INT, "row 2: no copy can have the mask of a masked array"),
    ("array with a mask", CONCAT, ENUM, "row 2: no copy can have the mask of a masked array"),
    ("array without pixels", MAP, INT, "row 2: an array of shape (0, 16, 3) is not an image"),
    ("array without pixels", CONCAT, INT, "row 2: an array of shape (0, 16, 3) is not an image"),
    ("text instead of an image", MAP, INT, "row 2: str is not an image"),
    ("text instead of an image", LIST, BOOL, "row 2: str is not an image"),
    ("`None`", MAP, INT, "row 2: NoneType is not an image"),
    ("`None`", HF, CLASS_LABEL, "row 2: no image"),
    ("item that raises `BadImage`", CONCAT, ENUM, "row 2: lost"),
    ("item that raises `BadImage`", STACK, INT, "row 2: lost"),
    # files that cannot be read
    ("empty file", FOLDER, CLASS_FOLDER, "2.png: not an image"),
    ("empty file", IMAGE_FOLDER, CLASS_FOLDER, "row 1: not an image"),
    ("empty file", HF_BYTES, CLASS_LABEL, "row 2: not an image"),
    ("jpg cut short", FOLDER, CLASS_FOLDER, "2.jpg: unreadable"),
    ("jpg cut short", MAP, INT, "row 2: unreadable"),
    ("jpg cut short", IMAGE_FOLDER_TEXT, CLASS_FOLDER, "row 1: unreadable"),
    ("png of a billion pixels", FOLDER, CLASS_FOLDER, "2.png: too many pixels"),
    ("png of a billion pixels", HF, VALUE_TEXT, "row 2: too many pixels"),
    ("HEIC", FOLDER, CLASS_FOLDER, "2.heic: .heic images are not read"),
    ("HEIC", MAP, INT, "row 2: not an image"),
    ("HEIC", HF_PATHS, CLASS_LABEL, "row 2: not an image"),
    ("image without a suffix", FOLDER, CLASS_FOLDER, "2: no suffix of an image that is read"),
    ("web page called .jpg", FOLDER, CLASS_FOLDER, "2.jpg: not an image"),
    ("web page called .jpg", HF_PATHS, VALUE_TEXT, "row 2: not an image"),
    ("png with a damaged header", FOLDER, CLASS_FOLDER, "2.png: not an image"),
    ("png with a damaged header", MAP, INT, "row 2: not an image"),
    ("link to nothing", FOLDER, CLASS_FOLDER, "2.png: no such file (a link to"),
    ("link to nothing", IMAGE_FOLDER, CLASS_FOLDER, "row 1: no such file"),
    ("link to nothing", MAP, INT, "row 2: no such file"),
    ("link to nothing", HF_PATHS, VALUE_INT, "row 2: no such file"),
    ("tiff of floats beyond [0, 1]", FOLDER, CLASS_FOLDER, "2.tiff: values of float32 must lie in [0, 1]"),
    ("tiff of floats beyond [0, 1]", HF, CLASS_LABEL, "row 2: values of float32 must lie in [0, 1]"),
    ("empty file", EXPANDED, INT, "row 2: not an image"),
    # labels of no class
    ("PIL RGB", MAP, NEGATIVE, "row 2: no label (-1)"),
    ("array (H, W), uint8", SUBSET, NEGATIVE, "row 2: no label (-1)"),
    ("png", HF, NEGATIVE, "row 2: no label (-1)"),
    ("png", HF, MISSING, "row 2: no label"),
    ("PIL RGB", HF_CMYK, MISSING, "row 2: no label"),
    ("PIL L", HF_GREY, MISSING, "row 2: no label"),
    ("jpg", HF, UNKNOWN, "row 2: its label 'wasp' is none of the classes"),
    ("png", HF_BYTES, UNKNOWN, "row 2: its label 'wasp' is none of the classes"),
)

_REFUSED = (
    # images of which none can be read
    ("PIL LAB", CONCAT, INT, "SourceError: no readable image in ConcatDataset; the first: row 0: no copy can be"),
    (
        "PIL I, all below 256",
        HF,
        CLASS_LABEL,
        "SourceError: no readable image in hugging-face; the first: row 0: values",
    ),
    ("array (H, W, 4), uint8", SUBSET, INT, "SourceError: no readable image in Subset; the first: row 0: an array of"),
    (
        "array (H, W, 2), uint8",
        MAP,
        BOOL,
        "SourceError: the first: row 0: an array of shape (24, 16, 2) is not an image",
    ),
    ("array (H, W), int32", CONCAT, ENUM, "SourceError: the first: row 0: an array of int32 has no white"),
    ("tensor (4, H, W), uint8", TENSORS, TENSOR, "SourceError: the first: row 0: an array of shape (4, 24, 16) is no"),
    ("array (H, W), int8", CONCAT, INT, "SourceError: the first: row 0: an array of int8 has no white"),
    ("array (H, W), complex64", SUBSET, INT, "SourceError: the first: row 0: an array of complex64 has no white"),
    ("array (H, W), of objects", CONCAT, INT, "SourceError: the first: row 0: an array of object has no white"),
    ("array (2, H, W, 3), uint8", LIST, INT, "SourceError: the first: row 0: an array of shape (2, 24, 16, 3) is no"),
    ("array (N,), uint8", MAP, INT, "SourceError: the first: row 0: an array of shape (16,) is not an image"),
    ("image without a suffix", IMAGE_FOLDER_TEXT, CLASS_FOLDER, "SourceError: torchvision:ImageFolder"),
    ("HEIC", IMAGE_FOLDER_TEXT, CLASS_FOLDER, "SourceError: torchvision:ImageFolder"),
    # errors of code
    ("item that raises `KeyError`", MAP, INT, "SourceError: row 0: the dataset raised KeyError"),
    ("item that raises `KeyError`", SUBSET, BOOL, "SourceError: row 0: the dataset raised KeyError"),
    ("item without a label", MAP, INT, "SourceError: must be an (image, label) pair"),
    ("item without a label", CONCAT, INT, "SourceError: must be an (image, label) pair"),
    ("item that is a dictionary", MAP, INT, "SourceError: must be an (image, label) pair, got dict"),
    ("item that is a dictionary", CONCAT, INT, "SourceError: must be an (image, label) pair, got dict"),
    ("png", HF_SUBSET, CLASS_LABEL, "SourceError: must be an (image, label) pair, got dict"),
    ("PIL L", HF_SUBSET, VALUE_INT, "SourceError: must be an (image, label) pair, got dict"),
    # folders that are no dataset
    ("text files", FOLDER, CLASS_FOLDER, "SourceError: no images in the sub-folders of"),
    ("text files", IMAGE_FOLDER_TEXT, CLASS_FOLDER, "SourceError: torchvision:ImageFolder"),
    # labels that are no classes
    ("PIL RGB", MAP, NEGATIVE_CLASS, "SourceError: has the labels -1, 1, and labels count classes from 0"),
    ("png", HF, NEGATIVE_CLASS, "SourceError: has the labels -1, 1, and labels count classes from 0"),
    ("PIL L", MAP, TEXT, "SourceError: has the label 'b'; labels must be integers"),
    ("array (H, W, 3), uint8", SUBSET, TEXT, "SourceError: has the label 'b'; labels must be integers"),
    ("PIL RGB", CONCAT, FRACTION, "SourceError: has the label 0.5; labels must be integers"),
    ("png", HF, FRACTION, "SourceError: labels must be integers or texts, got 0.5"),
    ("PIL RGB", MAP, TOO_LARGE, "SourceError: has label 2, but Pairs names 2 classes"),
    ("png", HF, TOO_LARGE, "SourceError: has label 2, but hugging-face names 2 classes"),
    ("PIL RGB", LIST, MISSING, "SourceError: has the label None; labels must be integers"),
)

SITUATIONS = tuple(
    Situation(form, container, label, outcome, says)
    for outcome, rows in ((KEPT, _KEPT), (LEFT_OUT, _LEFT_OUT), (REFUSED, _REFUSED))
    for form, container, label, says in rows
)
