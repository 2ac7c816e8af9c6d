#include "common/sha256.h"

#include <openssl/evp.h>

#include "common/error.h"

namespace espalier::common {

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  ESPALIER_CHECK(state_->context != nullptr, "EVP_MD_CTX_new");
  ESPALIER_CHECK(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1, "EVP_sha256");
}

Sha256::~Sha256() = default;

void Sha256::update(std::string_view bytes) {
  ESPALIER_CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1,
                 "EVP_DigestUpdate");
}

Digest Sha256::finish() {
  Digest digest;
  ESPALIER_CHECK(EVP_DigestFinal_ex(state_->context, digest.data(), nullptr) == 1,
                 "EVP_DigestFinal_ex");
  return digest;
}

Digest sha256(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.finish();
}

std::string to_hex(const uint8_t* bytes, size_t size) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * size);
  for (size_t i = 0; i < size; ++i) {
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

}  // namespace espalier::common
