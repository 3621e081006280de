"""What the report says of a measured scan: how it was understood, and where the result does not explain it."""
import numpy as np

from physics.residual import Residual
from utils.run.explained import facts, misfits
from utils.run.measured import Notes


def quiet(views=40, shape=(48, 64)):
    rng = np.random.default_rng(0)
    return Residual(rng.uniform(0.01, 0.02, views), rng.uniform(0.01, 0.02, shape), np.ones(shape))


def test_what_stands_out_is_named_as_the_files_count_it():
    """Every third view of the file, means over 2 x 2 pixels, from row 10 and column 100 on."""
    found = quiet()
    found.by_view[7] = 0.3
    found.by_pixel[4:6, 8:10] = 0.4
    text = misfits(found, list(range(0, 120, 3)), (10, 100), 2)
    assert "1 view of 40 stands out: view 21 (0.300); the median is 0.01" in text
    assert "1 region of 768 stands out: rows 18 to 21, columns 116 to 119 (0.400)" in text
    assert text.count("<svg") == 1 and ">column; rows run down<" in text


def test_where_nothing_stands_out_the_largest_are_named_too():
    found = quiet()
    found.signal[:, :60], found.by_pixel[:, :60] = 0.01, 1e-5       # air, which says nothing of what is usual
    found.by_view[5] = 0.025
    text = misfits(found, list(range(40)), (0, 0), 1)
    assert "No view stands out. The largest: view 5 (0.025); view" in text
    assert "No region stands out. The largest: rows " in text


def test_many_that_stand_out_are_counted():
    found = quiet()
    found.by_view[:10] = 0.5
    assert "10 views of 40 stand out: view " in (text := misfits(found, list(range(40)), (0, 0), 1))
    assert "; and 7 more;" in text


def test_what_was_assumed_found_and_corrected_is_listed():
    notes = Notes()
    assert facts(notes) == ("<dl><dt>assumed</dt><dd>nothing</dd><dt>corrected</dt><dd>nothing</dd>"
                            "<dt>bad pixels</dt><dd>none</dd></dl>")
    notes.say("corrected", "rings: 9")
    notes.say("corrected", "air: 3 < 4")
    notes.say("opposite rays", "they agree", "opposite rays: ")
    text = facts(notes)
    assert "<dt>corrected</dt><dd>rings: 9<br>air: 3 &lt; 4</dd>" in text and "<dd>they agree</dd>" in text
