#include "policy/model_io.h"

#include "common/sha256.h"
#include "policy/weights.h"

namespace espalier::policy {

WeightsPtr make_model(const ModelShape& shape, uint64_t run_seed) {
  return init_weights(shape, common::derive_key(run_seed, "model", "init"));
}

WeightsPtr load_model(const std::filesystem::path& directory) { return load_weights(directory); }

void save_model(const std::filesystem::path& directory, const WeightsPtr& weights) {
  save_weights(directory, *weights);
}

ModelShape shape_of(const WeightsPtr& weights) { return weights->shape; }

std::string digest(const WeightsPtr& weights) {
  common::Sha256 hash;
  for (const auto& [name, tensor] : weights->tensors) {
    const at::Tensor bytes = tensor.detach().cpu().contiguous();
    hash.update(name);
    for (const int64_t size : bytes.sizes()) hash.update("," + std::to_string(size));
    hash.update({static_cast<const char*>(bytes.data_ptr()), bytes.nbytes()});
  }
  const common::Digest sum = hash.finish();
  return common::to_hex(sum.data(), sum.size());
}

}  // namespace espalier::policy
