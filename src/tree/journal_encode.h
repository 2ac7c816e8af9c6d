// The payload of a journal record: the message Record of events.proto, written without the
// library's objects in between, which cost three times the rest of an append.
#pragma once

#include <string>

#include "tree/journal.h"

namespace espalier::tree {

/// Appends the payload to `out`. What the library writes of the same message is equal in meaning.
void encode_payload(const Event& event, std::string& out);

}  // namespace espalier::tree
