#include "core/config.h"

namespace ldmtune {
namespace {

void declare_data(OptionTable& t, DataConfig& c) {
  t.add("data.seed", c.seed, "", "Seed of the order of buckets and, with train.seed, of samples");
  t.add("data.subset", c.subset, "images",
        "Train on this many images of the training split (0: all); larger subsets contain smaller ones");
  t.add("data.subset_seed", c.subset_seed, "", "Seed that decides which images a subset takes");
  t.add(
      "data.weights", c.weights, "samples",
      "With several datasets in data: how often one pass takes each sample of each, e.g. 1,0.5 (empty: once; 0 leaves "
      "a dataset out)");
  t.add("data.latent_sampling", c.latent_sampling, "",
        "once: one posterior sample per image; deterministic: the posterior's mean; random: a fresh posterior sample "
        "each time");
}

void declare_train(OptionTable& t, RunConfig& c) {
  t.add("train.seed", c.seed, "", "Seed of initial weights, noise, timesteps, order and dropout");
  t.add("train.max_train_steps", c.max_train_steps, "updates", "Train for this many optimizer updates");
  t.add("train.num_train_epochs", c.num_train_epochs, "epochs",
        "If above 0, train for this many passes over the data instead of max_train_steps");
  t.add("train.max_tflops", c.max_tflops, "TFLOP",
        "If above 0, train for the updates that so many counted operations (10^12) pay for instead of max_train_steps: "
        "forward and backward of all that an update computes, class images and text encoder too; not validation");
  t.add("train.global_batch_size", c.global_batch_size, "samples",
        "Samples of one update over all ranks; divided by micro_batch_size it gives the leaves, a power of two");
  t.add("train.micro_batch_size", c.micro_batch_size, "samples",
        "Samples that go through the model together; changes the bits of a run, the number of ranks does not");
  t.add("train.max_grad_norm", c.max_grad_norm, "",
        "Clip the gradient's norm to this (0: off); may be a schedule \"1.0:100, 0.1\"");
  t.add("train.max_grad_value", c.max_grad_value, "",
        "Clip each gradient element to +- this (0: off); may be a schedule");
  t.add("train.checkpointing_steps", c.checkpointing_steps, "updates",
        "Write a checkpoint every so many updates (0: only at the end)");
  t.add("train.checkpoints_total_limit", c.checkpoints_total_limit, "checkpoints",
        "Keep at most this many, the newest and the best (0: all)");
  t.add("train.resume_from_checkpoint", c.resume_from_checkpoint, "",
        "Path of a checkpoint, or latest: go on from the newest in the output folder, or start if there is none");
  t.add("train.stop_after", c.stop_after, "updates",
        "Checkpoint after this many updates of this process and exit with 85 (0: off)");
  t.add("train.mixed_precision", c.mixed_precision, "",
        "no: fp32; bf16, fp16: the model computes in that type, what trains and its gradients' sums stay fp32 "
        "(dreambooth: "
        "the model gets rounded copies); fp16 scales the loss and skips updates whose gradients overflow");
  t.add("train.gradient_checkpointing", c.gradient_checkpointing, "",
        "Compute the UNet's activations again in backward instead of keeping them: less memory, 20 to 40% slower");
  t.add("train.device", c.device, "", "auto | cpu | cuda; with cuda a rank takes the GPU of its local rank");
  t.add("train.trace", c.trace, "",
        "Write an HDF5 audit trace to this file, from which another program can recompute the steps");
  t.add("train.trace_steps", c.trace_steps, "updates", "How many updates the trace holds");
  t.add("train.log_steps", c.log_steps, "updates", "A row of metrics.csv every so many updates");
}

void declare_stop(OptionTable& t, StopConfig& c) {
  t.add(
      "stop.rule", c.rule, "",
      "none: train max_train_steps; dvar: stop when the loss of some training images at fixed noise has settled (arXiv "
      "2302.04841)");
  t.add("stop.every", c.every, "updates", "DVAR: measure that loss every so many updates");
  t.add("stop.window", c.window, "updates", "DVAR: it has settled when over this many updates ...");
  t.add("stop.threshold", c.threshold, "", "... its variance is below this part of its variance since the start");
  t.add("stop.images", c.images, "images",
        "DVAR: training images that are measured, each at the timesteps of validation.timesteps");
}

void declare_optim(OptionTable& t, OptimConfig& c) {
  t.add("optim.optimizer", c.optimizer, "",
        "adamw | lion (a learning rate 3 to 10 times smaller) | prodigy (finds its step size itself: learning rate 1)");
  t.add("optim.learning_rate", c.learning_rate, "",
        "A number, or AUTOMATIC1111's schedule \"5e-3:100, 1e-3:1000, 1e-5\" (training stops at the last step named); "
        "textual inversion's default is 5e-3, dreambooth's 5e-6");
  t.add("optim.lr_scheduler", c.lr_scheduler, "", "constant | constant_with_warmup | linear | cosine, as in diffusers");
  t.add("optim.lr_warmup_steps", c.lr_warmup_steps, "updates", "Linear warm-up of the learning rate");
  t.add("optim.adam_beta1", c.adam_beta1, "", "Decay of AdamW's first moment");
  t.add("optim.adam_beta2", c.adam_beta2, "", "Decay of AdamW's second moment");
  t.add("optim.adam_weight_decay", c.adam_weight_decay, "", "Decoupled weight decay; textual inversion's default is 0");
  t.add("optim.adam_epsilon", c.adam_epsilon, "", "Epsilon of AdamW and Prodigy");
  t.add("optim.lion_beta1", c.lion_beta1, "", "Lion: weight of the momentum in the update's sign");
  t.add("optim.lion_beta2", c.lion_beta2, "", "Lion: decay of the momentum");
  t.add("optim.prodigy_beta3", c.prodigy_beta3, "", "Decay of Prodigy's step-size estimate (0: sqrt(adam_beta2))");
  t.add("optim.prodigy_d_coef", c.prodigy_d_coef, "", "Factor on Prodigy's estimate: below 1 for more careful steps");
  t.add("optim.prodigy_use_bias_correction", c.prodigy_use_bias_correction, "", "Adam's bias correction in Prodigy");
  t.add("optim.prodigy_safeguard_warmup", c.prodigy_safeguard_warmup, "",
        "Keep the learning rate out of Prodigy's estimate, so that warm-up does not raise it");
  t.add("optim.use_ema", c.use_ema, "",
        "Average the weights over updates; measured, pictured and exported is the average");
  t.add("optim.ema_decay", c.ema_decay, "",
        "Decay of that average; it rises as (1 + n) / (10 + n) over the first updates, as in diffusers");
}

void declare_loss(OptionTable& t, LossConfig& c) {
  t.add("loss.snr_gamma", c.snr_gamma, "", "min-SNR weights: caps the signal-to-noise ratio, usually 5 (0: off)");
  t.add("loss.loss_type", c.loss_type, "", "l2 | huber | smooth_l1, as in diffusers");
  t.add("loss.huber_schedule", c.huber_schedule, "",
        "constant | exponential | snr: how the threshold of huber and smooth_l1 falls with the timestep");
  t.add("loss.huber_c", c.huber_c, "", "That threshold (constant), or where it ends at the noisiest timestep");
  t.add("loss.masked", c.masked, "", "Weigh the loss by the dataset's masks (prepare --mask)");
  t.add("loss.unmasked_weight", c.unmasked_weight, "", "What an element outside the mask counts, 0 to 1");
  t.add("loss.normalize_masked_area", c.normalize_masked_area, "",
        "Average over the mask's area, so that small subjects count in full; false: over the whole picture");
}

void declare_noise(OptionTable& t, NoiseConfig& c) {
  t.add("noise.offset", c.offset, "", "Offset noise: scale of noise that is equal over a channel, say 0.05 (0: off)");
  t.add("noise.timestep_sampling", c.timestep_sampling, "",
        "uniform | logit_normal (of the timestep's place in its range) | log_normal (of sigma, as in EDM)");
  t.add("noise.timestep_mean", c.timestep_mean, "", "Mean of the normal behind them (EDM: -1.2)");
  t.add("noise.timestep_std", c.timestep_std, "", "Its standard deviation (EDM: 1.2)");
  t.add("noise.stratified", c.stratified, "",
        "Spread an update's timesteps evenly over the distribution: one in each of global_batch_size equal parts");
  t.add("noise.min_timestep", c.min_timestep, "timesteps", "The least timestep that trains");
  t.add("noise.max_timestep", c.max_timestep, "timesteps", "Timesteps below this train (0: all)");
  t.add("noise.rescale_betas_zero_snr", c.rescale_betas_zero_snr, "",
        "Train with a noise schedule that ends without signal (needs a base that predicts v)");
}

void declare_hypernetwork(OptionTable& t, HypernetworkConfig& c) {
  t.add("hypernetwork.name", c.name, "", "Name that the web UI shows (default: the output folder's)");
  t.add("hypernetwork.layer_structure", c.layer_structure, "widths",
        "Width of each layer relative to the context: 1,2,1 is two fully connected layers with a 2x middle");
  t.add("hypernetwork.activation", c.activation, "",
        "linear | relu | leakyrelu | elu | swish | tanh | sigmoid | any torch.nn activation in lower case");
  t.add("hypernetwork.weight_init", c.weight_init, "",
        "Normal | XavierUniform | XavierNormal | KaimingUniform | KaimingNormal");
  t.add("hypernetwork.layer_norm", c.layer_norm, "", "Layer norm after every fully connected layer");
  t.add("hypernetwork.layer_norm_init", c.layer_norm_init, "",
        "a1111: norm weights drawn like the others; ones; zero_last: ones inside, zero at the last, so that training "
        "starts at the base itself");
  t.add("hypernetwork.activate_output", c.activate_output, "", "Activation after the last layer too");
  t.add("hypernetwork.dropout_structure", c.dropout_structure, "probabilities",
        "Dropout for each entry of layer_structure, e.g. 0,0.3,0 (empty: none)");
  t.add("hypernetwork.widths", c.widths, "features",
        "Context widths that get networks (empty: all that the base has; SD 1: 320,640,768,1280)");
  t.add("hypernetwork.init_from", c.init_from, "",
        "Start from this hypernetwork, .pt or .safetensors: its layers, activation and widths must be those above");
}

void declare_lora(OptionTable& t, LoraConfig& c) {
  t.add("lora.rank", c.rank, "", "Rank of the two factors that every targeted layer gets");
  t.add("lora.alpha", c.alpha, "", "What the factors' product counts is alpha / rank (0: as the rank, so 1)");
  t.add("lora.target_modules", c.target_modules, "",
        "Layers of the UNet's transformers, by the end of their name: to_q, to_k, to_v, to_out.0 (attention), "
        "ff.net.0.proj, ff.net.2 (feed-forward), proj_in, proj_out; all: every one; empty: none");
  t.add("lora.text_encoder_target_modules", c.text_encoder_target_modules, "",
        "Layers of the text encoder that train too: q_proj, k_proj, v_proj, out_proj (attention), mlp.fc1, mlp.fc2; "
        "all: every one; empty: none");
  t.add("lora.text_encoder_learning_rate", c.text_encoder_learning_rate, "",
        "The text encoder's learning rate (SDXL: of both), as optim.learning_rate (empty: the same)");
  t.add("lora.init_from", c.init_from, "",
        "Start from this LoRA of diffusers, PEFT or kohya: its rank, alpha and layers must be those above");
}

void declare_dreambooth(OptionTable& t, DreamboothConfig& c) {
  t.add("dreambooth.train_unet", c.train_unet, "",
        "all: every weight of the UNet; attention: only those of its attention layers; none");
  t.add("dreambooth.train_text_encoder", c.train_text_encoder, "", "Train the text encoder (SDXL: both) too");
  t.add("dreambooth.text_encoder_learning_rate", c.text_encoder_learning_rate, "",
        "Its learning rate, as optim.learning_rate (empty: the same)");
  t.add(
      "dreambooth.instance_prompt", c.instance_prompt, "",
      "What all images of data are called, e.g. \"a sks dog\" (empty: each by its own caption); with several datasets, "
      "concepts of their own, a prompt for each: a sks dog | a zwx cat");
  t.add("dreambooth.with_prior_preservation", c.with_prior_preservation, "",
        "Train on class images beside the instances, so that the base's other concepts stay");
  t.add("dreambooth.prior_loss_weight", c.prior_loss_weight, "", "What a class image's loss counts");
  t.add("dreambooth.class_data", c.class_data, "",
        "Dataset folder of class images; one that is not there yet is made: the base draws class_prompt");
  t.add(
      "dreambooth.class_prompt", c.class_prompt, "",
      "Prompts of the class images, separated by |, or a file with one a line (empty: class_data's own captions); the "
      "base draws them with [sample]'s sampler, num_inference_steps and guidance_scale");
  t.add("dreambooth.num_class_images", c.num_class_images, "images",
        "How many the base draws where class_data is not there yet, and the least it must hold otherwise");
  t.add(
      "dreambooth.init_from", c.init_from, "",
      "Start from these weights instead of the base's: a run, checkpoint or weights file of ldmtune, or a whole model "
      "(folder or single file) of the base's kind; the base is still what forgetting is measured against");
}

void declare_textual_inversion(OptionTable& t, TextualInversionConfig& c) {
  t.add("textual_inversion.placeholder_token", c.placeholder_token, "",
        "The new word, such as <zorp>, which captions or caption.template must hold; several, separated by |, train "
        "together");
  t.add("textual_inversion.num_vectors", c.num_vectors, "vectors",
        "Vectors of each word: more hold more and take more of the prompt's room, e.g. 4 or, for two words, 4,2 "
        "(empty: 1, or "
        "as many as initial_embedding has)");
  t.add("textual_inversion.initializer_token", c.initializer_token, "",
        "Start from the embedding of this token of the base's vocabulary, one for each word (|)");
  t.add("textual_inversion.initializer_text", c.initializer_text, "",
        "Start from a text's embeddings, spread over the vectors (without any of the three: from zeros)");
  t.add(
      "textual_inversion.initial_embedding", c.initial_embedding, "",
      "Start from an embedding file of AUTOMATIC1111, diffusers, kohya or OneTrainer; of a file of several words, each "
      "placeholder from its own");
}

void declare_caption(OptionTable& t, CaptionConfig& c) {
  t.add("caption.template", c.template_text, "",
        "A template with [filewords] and [name], or a file with one a line (empty: the caption itself)");
  t.add("caption.name", c.name, "", "What [name] stands for (empty: the word that a textual inversion learns)");
  t.add("caption.dropout", c.dropout, "probability", "Replace the caption by the empty one with this probability");
  t.add("caption.shuffle_tags", c.shuffle_tags, "", "Shuffle the caption's comma-separated tags for each sample");
  t.add("caption.keep_tokens", c.keep_tokens, "tags", "The first so many tags are neither shuffled nor dropped");
  t.add("caption.tag_dropout", c.tag_dropout, "probability", "Leave each tag out with this probability");
  t.add("caption.weights", c.weights, "",
        "Read AUTOMATIC1111's (word:1.1), [word] and BREAK in captions and prompts (false: brackets are text)");
  t.add("caption.clip_skip", c.clip_skip, "layers",
        "Which of the text encoder's layers, from its end, is the context (1: the last), as AUTOMATIC1111 counts");
  t.add("caption.max_chunks", c.max_chunks, "chunks",
        "Chunks of 75 tokens (model_max_length - 2); every prompt is padded to all of them");
}

void declare_validation(OptionTable& t, ValidationConfig& c) {
  t.add("validation.steps", c.steps, "updates",
        "Measure the held-out loss every so many updates, at 0 and at the end (0: only those two)");
  t.add("validation.seed", c.seed, "",
        "Seed of the fixed noise; with the image's hash it decides it, so every run meets the same");
  t.add("validation.adjacent", c.adjacent, "",
        "A dataset of neighbouring concepts: its validation split measures forgetting, as loss and as drift from the "
        "base's own prediction");
  t.add("validation.adjacent_prompts", c.adjacent_prompts, "",
        "What the base draws into that folder where it is not there yet: prompts separated by |, or a file with one a "
        "line");
  t.add("validation.num_adjacent_images", c.num_adjacent_images, "images",
        "How many it draws, of each prompt in turn, and the least the folder must hold otherwise");
  t.add("validation.adjacent_trigger", c.adjacent_trigger, "",
        "Measure the adjacent images once more with this before each caption, such as the new word");
  t.add("validation.timesteps", c.timesteps, "timesteps",
        "Fixed timesteps per image, evenly spaced over the schedule; a multiple of 4");
  t.add("validation.batch_size", c.batch_size, "samples", "Fixed width of a validation batch (padded)");
  t.add("validation.max_images", c.max_images, "images", "At most this many images of each kind (0: all)");
}

void declare_sample(OptionTable& t, SampleConfig& c) {
  t.add("sample.steps", c.steps, "updates", "A grid of pictures every so many updates and at the end (0: none)");
  t.add("sample.prompts", c.prompts, "", "Prompts of the grid, separated by |");
  t.add("sample.heldout_prompts", c.heldout_prompts, "prompts",
        "Without sample.prompts: captions of this many validation images");
  t.add("sample.negative_prompt", c.negative_prompt, "", "What guidance leads away from");
  t.add("sample.seed", c.seed, "", "Seed of the initial noise");
  t.add("sample.num_inference_steps", c.num_inference_steps, "steps", "Sampler steps");
  t.add("sample.guidance_scale", c.guidance_scale, "", "Classifier-free guidance (1: off)");
  t.add("sample.sampler", c.sampler, "", "ddim | euler | euler_ancestral | dpmpp_2m | dpmpp_2m_karras");
}

}  // namespace

void declare(OptionTable& t, BaseConfig& c) {
  t.add("base.tokenizer", c.tokenizer, "",
        "For a base in one file: folder with vocab.json and merges.txt, or a base of the same family in the diffusers "
        "layout");
  t.add("base.vae", c.vae, "", "Another VAE than the base's own: a .safetensors or .ckpt file, or a folder");
  t.add("base.prediction_type", c.prediction_type, "",
        "epsilon | v_prediction, where the base does not say it or says it wrongly (empty: as the base says)");
}

void declare(OptionTable& t, TrainConfig& c) {
  t.add("method", c.method, "", "What trains: hypernetwork | lora | textual_inversion | dreambooth");
  t.add("base", c.base, "",
        "Base model: a folder in the diffusers layout, or a .safetensors or .ckpt file in the LDM layout");
  t.add("variant", c.variant, "", "Weight files' variant, e.g. fp16");
  t.add("data", c.data, "", "Dataset folder written by ldmtune prepare; several, separated by commas, train together");
  t.add("output", c.output, "", "Run folder");
  t.add(
      "base.merge", c.base_merge, "",
      "LoRA files added to the base's weights at load, with their strength: style.safetensors:0.8, other.safetensors");
  declare(t, c.base_options);
  declare_data(t, c.data_options);
  declare_train(t, c.train);
  declare_stop(t, c.stop);
  declare_optim(t, c.optim);
  declare_loss(t, c.loss);
  declare_noise(t, c.noise);
  declare_hypernetwork(t, c.hypernetwork);
  declare_textual_inversion(t, c.textual_inversion);
  declare_lora(t, c.lora);
  declare_dreambooth(t, c.dreambooth);
  declare_caption(t, c.caption);
  declare_validation(t, c.validation);
  declare_sample(t, c.sample);
}

void declare(OptionTable& t, PrepareConfig& c) {
  t.add("base", c.base, "",
        "Base model whose VAE encodes: a folder in the diffusers layout, or a file in the LDM layout");
  declare(t, c.base_options);
  t.add("variant", c.variant, "", "Weight files' variant, e.g. fp16");
  t.add("images", c.images, "",
        "Folder of PNG, JPEG or WebP images with metadata.jsonl, or NAME.txt / NAME.caption beside each");
  t.add("output", c.output, "", "Dataset folder to write");
  t.add("resolution", c.resolution, "pixels",
        "Side of the square that images are resized and cropped to (0: what the base was trained at)");
  t.add("random_flip", c.random_flip, "", "Encode each image's mirror image too");
  t.add("skip_bad", c.skip_bad, "", "Leave unreadable images out instead of stopping");
  t.add("captions_only", c.captions_only, "", "Reread captions of an existing dataset without encoding again");
  t.add("validation_images", c.validation_images, "images",
        "Held out for choosing, by lowest hash where metadata names no split (-1: 5%, at least 1 from 8 images on)");
  t.add("test_images", c.test_images, "images", "Held out for the analysis alone (-1: as validation_images)");
  t.add("batch_size", c.batch_size, "images", "Images that go through the VAE together");
  t.add("images_per_part", c.images_per_part, "images", "Images of one HDF5 part");
  t.add("known_only", c.known_only, "", "Only images whose metadata says \"known\": true");
  t.add("mask", c.mask, "",
        "Masks for loss.masked: none | alpha (the images' own) | files (NAME.mask.png beside NAME, or masks/NAME.png; "
        "white counts)");
}

}  // namespace ldmtune
