#pragma once
// Textual inversion embeddings in the files of other programs. Tensors keep the file's dtype, so that reading and
// writing in the same format is exact.
//
// | writer       | layout                                                                                          |
// |--------------|-------------------------------------------------------------------------------------------------|
// | A1111 .pt    | string_to_token {"*": 265}, string_to_param {"*": (n, D)}, name, step, sd_checkpoint, ..._name  |
// | rinongal     | string_to_token, string_to_param as a ParameterDict, keyed by the words themselves              |
// | kohya        | {emb_params: (n, D)}; SDXL {clip_l, clip_g}                                                     |
// | diffusers    | {<word>: (n, D) or (D)}, learned_embeds.safetensors or .bin                                     |
// | OneTrainer   | {emp_params: (n, D)[, emp_params_out]}                                                          |
// | ldmtune      | several words of SDXL's, for which no peer has a layout: {<word>.clip_l, <word>.clip_g, ...}    |

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace ldmtune::adapt {

struct Embedding {
  std::string token;          ///< the word that stands for it in prompts
  at::Tensor vectors;         ///< (n, D)
  at::Tensor second_vectors;  ///< (n, D2) for SDXL's second text encoder; undefined where there is none
  std::int64_t step = 0;
  std::string base_sha256, base_name;  ///< what it was trained on, where the file says so
};

/// All embeddings of a file of any of the layouts, or of a file with one tensor whatever its key. The token is the
/// file's own (name, or the key) or, where the file has none, its stem. A file of several words gives several.
/// Errors: InputError naming the file and what is wrong: no embedding (and what it is instead, where that is plain), a
/// tensor of another shape, integers, NaN, SDXL's clip_l without clip_g.
std::vector<Embedding> read_embeddings(const std::filesystem::path& file);

enum class EmbeddingFormat { a1111, diffusers, kohya };
/// Errors: InputError listing the names.
EmbeddingFormat parse_embedding_format(const std::string& name);

/// Writes atomically: A1111 a .pt; diffusers a .safetensors; kohya either, by the file's extension. Only diffusers'
/// layout holds several words. SDXL's pair is {clip_l, clip_g} in every format, several are {<word>.clip_l, ...} in
/// diffusers'. Errors: InputError for an extension that the format has not, or several words.
void write_embeddings(const std::filesystem::path& file, EmbeddingFormat format,
                      const std::vector<Embedding>& embeddings);

}  // namespace ldmtune::adapt
