// Half precision of g++ in place of CUDA's: it is stored in two bytes and computes in float.
#pragma once
using __half = _Float16;
