// A CUDA device guard that does nothing: with it, a torch built for the CPU lets FakeTensorMode make
// tensors whose device is a GPU.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

constexpr c10::DeviceType kCuda = c10::DeviceType::CUDA;

struct PretendedGuard final : public c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kCuda; }
  c10::Device exchangeDevice(c10::Device) const override { return c10::Device(kCuda, 0); }
  c10::Device getDevice() const override { return c10::Device(kCuda, 0); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, c10::Device(kCuda, 0));
  }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};

}  // namespace

C10_REGISTER_GUARD_IMPL(CUDA, PretendedGuard)
