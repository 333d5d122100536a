#include "tile/tasks.h"

#if defined(__AVX2__) && defined(__FMA__)
#define KVSCOPE_TILE_ISA avx2
#define KVSCOPE_TILE_WIDTH 8
#define KVSCOPE_TILE_ROWS 6
#include "tile/columns.h"
#include "tile/fold.h"
#include "tile/rows.h"
#include "tile/top.h"

namespace kvscope::tile {

const Functions* avx2_functions() {
  static const Functions table{
      "avx2",          avx2::tile_keys, &avx2::pack, &avx2::columns,      &avx2::forward,
      &avx2::fold,     &avx2::rows,     &avx2::dots, &avx2::group_maxima, &avx2::sum_of_exp,
      &avx2::level_of, &avx2::gather,   &avx2::list, &avx2::rank};
  return &table;
}

}  // namespace kvscope::tile
#else
namespace kvscope::tile {

const Functions* avx2_functions() {
  return nullptr;
}

}  // namespace kvscope::tile
#endif
