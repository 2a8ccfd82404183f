// Classify crops with a model of glomedge, without Python. Research use only. Not for diagnostic use.
//
//   glomedge export --with-preprocessing                 # on the workstation: model.onnx and enhance.onnx
//   g++ -std=c++17 -O2 classify.cpp -I ORT/include -L ORT/lib -lonnxruntime -Wl,-rpath,ORT/lib -o classify
//   ./classify enhance.onnx model.onnx crop.ppm [more.ppm ...]
//
// ORT is an unpacked release of ONNX Runtime (headers of version 1.14 or later). Crops are binary PPM, so that this
// example needs no other library: decode PNG as docs/decoding.md says. Prints one JSON object a crop.

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
    int64_t height = 0, width = 0;
    std::vector<uint8_t> rgb;
};

Image read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    Image image;
    int largest = 0;
    if (!(file >> kind >> image.width >> image.height >> largest) || kind != "P6" || largest != 255)
        throw std::runtime_error(path + " is no binary PPM of 8 bits without a comment");
    file.get();  // one blank before the pixels
    image.rgb.resize(image.height * image.width * 3);
    if (!file.read(reinterpret_cast<char*>(image.rgb.data()), image.rgb.size()))
        throw std::runtime_error(path + " ends too early");
    return image;
}

Ort::Value run(Ort::Session& session, const char* input, const char* output, uint8_t* data, std::vector<int64_t> shape) {
    size_t count = 1;
    for (int64_t side : shape) count *= side;
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    auto tensor = Ort::Value::CreateTensor<uint8_t>(memory, data, count, shape.data(), shape.size());
    return std::move(session.Run(Ort::RunOptions{nullptr}, &input, &tensor, 1, &output, 1).front());
}

int main(int count, char** arguments) try {
    if (count < 4) throw std::runtime_error("usage: classify enhance.onnx model.onnx crop.ppm [more.ppm ...]");
    std::cerr << "Research use only. Not for diagnostic use.\n";
    Ort::Env environment(ORT_LOGGING_LEVEL_WARNING);
    Ort::SessionOptions options;
    Ort::Session enhance(environment, arguments[1], options), network(environment, arguments[2], options);
    for (int each = 3; each < count; each++) {
        Image crop = read_ppm(arguments[each]);  // of any size; the enhanced one has the side of the network
        Ort::Value image = run(enhance, "crop", "image", crop.rgb.data(), {crop.height, crop.width, 3});
        std::vector<int64_t> shape = image.GetTensorTypeAndShapeInfo().GetShape();
        shape.insert(shape.begin(), 1);
        Ort::Value answer = run(network, "images", "probability", image.GetTensorMutableData<uint8_t>(), shape);
        std::cout.precision(9);
        std::cout << "{\"file\": \"" << arguments[each] << "\", \"probability\": " << *answer.GetTensorData<float>() << "}\n";
    }
} catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
}
