/* The functions of libnvinfer, libnvonnxparser, libnvinfer_plugin and libnvparsers that NVIDIA's Python bindings want
   when they are imported. With these alone every class and member of theirs can be looked up, without a GPU. */
#define FUNCTION(name) __attribute__((visibility("default"))) void* name(void) { return 0; }
FUNCTION(createInferBuilder_INTERNAL)
FUNCTION(createInferRefitter_INTERNAL)
FUNCTION(createInferRuntime_INTERNAL)
FUNCTION(createNvOnnxParser_INTERNAL)
FUNCTION(createNvOnnxParserRefitter_INTERNAL)
FUNCTION(getBuilderPluginRegistry)
FUNCTION(getInferLibVersion)
FUNCTION(getNvOnnxParserVersion)
FUNCTION(getPluginRegistry)
FUNCTION(initLibNvInferPlugins)
FUNCTION(_ZN11nvuffparser15createUffParserEv)
FUNCTION(_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi)
FUNCTION(_ZN14nvcaffeparser117createCaffeParserEv)
FUNCTION(_ZN14nvcaffeparser123shutdownProtobufLibraryEv)
