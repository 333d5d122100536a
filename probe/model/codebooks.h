#pragma once

namespace kvscope {

/// Codebooks of the IQ block types, packed as hexadecimal digits: 2 bits an entry (IQ1, IQ2: 4 to a
/// byte) or 4 (IQ3: 2 to a byte); rows of 8 (IQ1, IQ2) or 4 (IQ3) entries.
extern const char* const iq2_xxs_digits;  ///< 256 rows
extern const char* const iq2_xs_digits;   ///< 512 rows
extern const char* const iq2_s_digits;    ///< 1024 rows
extern const char* const iq3_xxs_digits;  ///< 256 rows
extern const char* const iq3_s_digits;    ///< 512 rows
extern const char* const iq1_s_digits;    ///< 2048 rows, shared by IQ1_M

}  // namespace kvscope
