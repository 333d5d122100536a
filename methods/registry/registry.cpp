#include "registry/entry.h"

namespace kvscope {
namespace detail {

const std::vector<PieceEntry>& entries() {
  static const std::vector<PieceEntry> all = {
      // First pieces: scorers and presets. One entry a line, so that lists merge.
      full_entry(),                  //
      random_entry(),                //
      streaming_llm_entry(),         //
      knorm_entry(),                 //
      keydiff_entry(),               //
      observed_attention_entry(),    //
      h2o_entry(),                   //
      tova_entry(),                  //
      snapkv_entry(),                //
      pyramidkv_entry(),             //
      adakv_preset_entry(),          //
      criticalkv_entry(),            //
      criticaladakv_entry(),         //
      lagkv_entry(),                 //
      cur_entry(),                   //
      r_kv_entry(),                  //
      expected_attention_entry(),    //
      q_filters_entry(),             //
      cap_entry(),                   //
      leverage_entry(),              //
      non_causal_entry(),            //
      compactor_entry(),             //
      cake_entry(),                  //
      caote_entry(),                 //
      chunkkv_entry(),               //
      simlayerkv_entry(),            //
      finch_entry(),                 //
      scissorhands_entry(),          //
      ahakv_entry(),                 //
      laprox_entry(),                //
      triattention_entry(),          //
      triattention_serving_entry(),  //
      alpha_entry(),                 //
      asymkv_entry(),                //
      kvslimmer_entry(),             //
      // Later pieces.
      uniform_entry(),        //
      pyramid_entry(),        //
      adakv_entry(),          //
      pool_entry(),           //
      concentration_entry(),  //
      cascade_entry(),        //
      top_k_entry(),          //
      threshold_entry(),      //
      chunks_entry(),         //
      spans_entry(),          //
      diversity_entry(),      //
      noise_entry(),          //
      critical_entry(),       //
      redundancy_entry(),     //
      drop_entry(),           //
      nearest_key_entry(),    //
      pivot_entry(),          //
      weighted_entry(),       //
      cam_entry(),            //
      d2o_entry(),            //
      low_bit_entry(),        //
      decode_entry(),         //
      rows_entry(),           //
  };
  return all;
}

}  // namespace detail

const std::vector<PieceInfo>& registry() {
  static const std::vector<PieceInfo> infos = [] {
    std::vector<PieceInfo> result;
    for (const detail::PieceEntry& entry : detail::entries()) {
      result.push_back(entry.info);
    }
    return result;
  }();
  return infos;
}

}  // namespace kvscope
