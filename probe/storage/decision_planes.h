#pragma once

#include <hdf5.h>

#include <cstdint>

#include "kvscope/core/decision.h"

namespace kvscope {

/// The parts of a decision file (specs/probe.md 5.5), each both ways. Reading checks every shape
/// against the header's sizes; the layers exist after `read_axes`.
void write_axes(hid_t file, const Decision& decision);
void read_axes(hid_t file, Decision& decision);
void write_events(hid_t file, const Decision& decision);
void read_events(hid_t file, Decision& decision, std::int64_t events);
/// fate, removed_at, kept_bits, granted, cut, score, terms.
void write_planes(hid_t file, const Decision& decision);
void read_planes(hid_t file, Decision& decision);
void write_edges(hid_t file, const Decision& decision);
void read_edges(hid_t file, Decision& decision, std::int64_t edges, std::int64_t key_row_dim);
void write_metrics(hid_t file, const Decision& decision);
void read_metrics(hid_t file, Decision& decision);

}  // namespace kvscope
