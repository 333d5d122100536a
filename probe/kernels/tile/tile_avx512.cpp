#include "tile/tasks.h"

#if defined(__AVX512F__)
#define KVSCOPE_TILE_ISA avx512
#define KVSCOPE_TILE_WIDTH 16
#define KVSCOPE_TILE_ROWS 12
#include "tile/columns.h"
#include "tile/fold.h"
#include "tile/rows.h"
#include "tile/top.h"

namespace kvscope::tile {

const Functions* avx512_functions() {
  static const Functions table{"avx512",
                               avx512::tile_keys,
                               &avx512::pack,
                               &avx512::columns,
                               &avx512::forward,
                               &avx512::fold,
                               &avx512::rows,
                               &avx512::dots,
                               &avx512::group_maxima,
                               &avx512::sum_of_exp,
                               &avx512::level_of,
                               &avx512::gather,
                               &avx512::list,
                               &avx512::rank};
  return &table;
}

}  // namespace kvscope::tile
#else
namespace kvscope::tile {

const Functions* avx512_functions() {
  return nullptr;
}

}  // namespace kvscope::tile
#endif
