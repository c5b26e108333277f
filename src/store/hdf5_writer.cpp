#include "store/hdf5_writer.h"

#include <set>

#include "core/error.h"
#include "store/hdf5.h"

namespace ldmtune::store {

struct Hdf5Writer::Impl {
  std::filesystem::path path;
  hdf5::Id file;
  std::set<std::string> groups;

  std::string what(const std::string& object) const { return cat(path, ": ", object); }

  /// Creates the group and those above it that this writer has not created yet.
  void make_group(const std::string& group) {
    if (group.empty() || group == "/" || !groups.insert(group).second) return;
    make_group(group.substr(0, group.rfind('/')));
    hdf5::create_group(file, group, what(group));
  }

  hdf5::Id open(const std::string& object) const {
    const hid_t id = H5Oopen(file, object.c_str(), H5P_DEFAULT);
    if (id < 0) fail(what(object), ": no such group or dataset to give an attribute: ", hdf5::last_error(), ".");
    return hdf5::Id(id, H5Oclose);
  }
};

Hdf5Writer::Hdf5Writer(const std::filesystem::path& file) : impl_(std::make_unique<Impl>()) {
  const hdf5::Lock lock;
  impl_->path = file;
  impl_->file = hdf5::create_file(file, hdf5::Format::reopenable);
}

Hdf5Writer::~Hdf5Writer() {
  const hdf5::Lock lock;
  impl_.reset();
}

void Hdf5Writer::write(const std::string& path, const at::Tensor& tensor) {
  const hdf5::Lock lock;
  impl_->make_group(path.substr(0, path.rfind('/')));
  at::Tensor plain = tensor.detach();
  if (plain.scalar_type() == at::kBFloat16) plain = plain.to(at::kFloat);
  hdf5::write_dataset(impl_->file, path, plain.cpu().contiguous(), 0, impl_->what(path));
}

void Hdf5Writer::group(const std::string& path) {
  const hdf5::Lock lock;
  impl_->make_group(path);
}

void Hdf5Writer::attribute(const std::string& path, const std::string& name, double value) {
  const hdf5::Lock lock;
  hdf5::write_attribute(impl_->open(path), name, {value}, true, impl_->what(path));
}

void Hdf5Writer::attribute(const std::string& path, const std::string& name, std::int64_t value) {
  const hdf5::Lock lock;
  hdf5::write_attribute(impl_->open(path), name, value, impl_->what(path));
}

void Hdf5Writer::attribute(const std::string& path, const std::string& name, const std::string& text) {
  const hdf5::Lock lock;
  hdf5::write_attribute(impl_->open(path), name, text, impl_->what(path));
}

void Hdf5Writer::attribute(const std::string& path, const std::string& name, const std::vector<double>& values) {
  const hdf5::Lock lock;
  hdf5::write_attribute(impl_->open(path), name, values, false, impl_->what(path));
}

void Hdf5Writer::flush() {
  const hdf5::Lock lock;
  if (H5Fflush(impl_->file, H5F_SCOPE_GLOBAL) < 0) fail(impl_->path, ": cannot flush: ", hdf5::last_error(), ".");
}

void Hdf5Writer::close() {
  flush();
  const hdf5::Lock lock;
  if (impl_->file.reset() < 0) fail(impl_->path, ": cannot close: ", hdf5::last_error(), ".");
}

}  // namespace ldmtune::store
