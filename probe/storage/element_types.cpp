#include <bit>
#include <cmath>

#include "h5.h"

namespace kvscope::h5 {
namespace {

Handle float_type(std::size_t sign, std::size_t exponent_at, std::size_t exponent_bits,
                  std::size_t mantissa_bits, std::size_t bias) {
  Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  H5Tset_fields(type, sign, exponent_at, exponent_bits, 0, mantissa_bits);
  H5Tset_precision(type, 16);
  H5Tset_offset(type, 0);
  H5Tset_size(type, 2);
  H5Tset_ebias(type, bias);
  return type;
}

}  // namespace

Handle disk_type(ElementType type) {
  const auto copy = [](hid_t standard) { return Handle(H5Tcopy(standard), H5Tclose); };
  switch (type) {
    case ElementType::f4:
      return copy(H5T_IEEE_F32LE);
    case ElementType::f8:
      return copy(H5T_IEEE_F64LE);
    case ElementType::f2:
      return float_type(15, 10, 5, 10, 15);
    case ElementType::bf16:
      return float_type(15, 7, 8, 7, 127);
    case ElementType::i4:
      return copy(H5T_STD_I32LE);
    case ElementType::i8:
      return copy(H5T_STD_I64LE);
    case ElementType::u1:
      return copy(H5T_STD_U8LE);
    case ElementType::u8:
      return copy(H5T_STD_U64LE);
  }
  return {};
}

ElementType element_type(hid_t type, const std::string& object) {
  const H5T_class_t kind = H5Tget_class(type);
  const std::size_t size = H5Tget_size(type);
  if (kind == H5T_FLOAT && H5Tget_order(type) == H5T_ORDER_LE) {
    if (size == 4 || size == 8) {
      return size == 4 ? ElementType::f4 : ElementType::f8;
    }
    std::size_t sign = 0;
    std::size_t exponent_at = 0;
    std::size_t exponent_bits = 0;
    std::size_t mantissa_at = 0;
    std::size_t mantissa_bits = 0;
    H5Tget_fields(type, &sign, &exponent_at, &exponent_bits, &mantissa_at, &mantissa_bits);
    if (size == 2 && (exponent_bits == 5 || exponent_bits == 8)) {
      return exponent_bits == 5 ? ElementType::f2 : ElementType::bf16;
    }
  }
  if (kind == H5T_INTEGER) {
    const bool is_signed = H5Tget_sign(type) == H5T_SGN_2;
    if (size == 4 && is_signed) {
      return ElementType::i4;
    }
    if (size == 8) {
      return is_signed ? ElementType::i8 : ElementType::u8;
    }
    if (size == 1 && !is_signed) {
      return ElementType::u1;
    }
    if (size == 4) {
      return ElementType::i8;
    }
  }
  throw Error(ErrorCode::corrupt_file, "the element type is none that kvscope writes", object);
}

std::size_t element_bytes(ElementType type) {
  switch (type) {
    case ElementType::f4:
    case ElementType::i4:
      return 4;
    case ElementType::f2:
    case ElementType::bf16:
      return 2;
    case ElementType::u1:
      return 1;
    case ElementType::f8:
    case ElementType::i8:
    case ElementType::u8:
      return 8;
  }
  return 0;
}

const char* element_name(ElementType type) {
  constexpr const char* names[] = {"float32", "float64", "float16", "bfloat16",
                                   "int32",   "int64",   "uint8",   "uint64"};
  return names[static_cast<std::size_t>(type)];
}

std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) {
    return static_cast<std::uint16_t>((bits >> 16) | 0x40);
  }
  return static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

std::uint16_t to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000);
  const std::uint32_t magnitude = bits & 0x7FFFFFFF;
  std::uint32_t half = 0;
  if (magnitude > 0x7F800000) {
    half = 0x7E00;  // NaN
  } else if (magnitude >= 0x477FF000) {
    half = 0x7C00;  // 65520 and more round to infinity
  } else if (magnitude < 0x38800000) {
    // Below 2^-14 the unit is 2^-24, which is that of floats from 0.5 to 1.
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3F000000;
  } else {
    half = (magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
}

}  // namespace kvscope::h5
