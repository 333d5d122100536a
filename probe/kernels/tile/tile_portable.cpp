#define KVSCOPE_TILE_ISA portable
#define KVSCOPE_TILE_WIDTH 4
#define KVSCOPE_TILE_ROWS 6
#include "tile/columns.h"
#include "tile/fold.h"
#include "tile/rows.h"
#include "tile/top.h"

namespace kvscope::tile {

const Functions& portable_functions() {
  static const Functions table{"portable",
                               portable::tile_keys,
                               &portable::pack,
                               &portable::columns,
                               &portable::forward,
                               &portable::fold,
                               &portable::rows,
                               &portable::dots,
                               &portable::group_maxima,
                               &portable::sum_of_exp,
                               &portable::level_of,
                               &portable::gather,
                               &portable::list,
                               &portable::rank};
  return table;
}

}  // namespace kvscope::tile
