#pragma once

#include <cstdint>

namespace kvscope {

/// Dequantisers of ggml's codebook (IQ), ternary (TQ) and microscaling (MXFP4) blocks; arguments as
/// BlockType::dequantise.
void iq1_s(const std::uint8_t* source, std::int64_t blocks, float* out);
void iq1_m(const std::uint8_t* source, std::int64_t blocks, float* out);
void iq2_xxs(const std::uint8_t* source, std::int64_t blocks, float* out);
void iq2_xs(const std::uint8_t* source, std::int64_t blocks, float* out);
void iq2_s(const std::uint8_t* source, std::int64_t blocks, float* out);
void iq3_xxs(const std::uint8_t* source, std::int64_t blocks, float* out);
void iq3_s(const std::uint8_t* source, std::int64_t blocks, float* out);
void iq4_nl(const std::uint8_t* source, std::int64_t blocks, float* out);
void iq4_xs(const std::uint8_t* source, std::int64_t blocks, float* out);
void tq1_0(const std::uint8_t* source, std::int64_t blocks, float* out);
void tq2_0(const std::uint8_t* source, std::int64_t blocks, float* out);
void mxfp4(const std::uint8_t* source, std::int64_t blocks, float* out);
void nvfp4(const std::uint8_t* source, std::int64_t blocks, float* out);

}  // namespace kvscope
